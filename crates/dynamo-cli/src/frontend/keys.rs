//! The keys of clients: read when the frontend starts, and again when they change.

use std::path::PathBuf;

use anyhow::Context as _;
use dynamo_http::{ApiKeys, KeyList, ProgramProblems};
use dynamo_namespace::NamespaceScope;
use tracing::{info, warn};

use super::api_keys;
use super::settings::Keyring;
use crate::changed_file::ChangedFile;
use crate::failure::Failure;
use crate::followed_file::FollowedFile;
use crate::settings::table::{KEYS_SECTION, Keys};

/// How the keys that clients need are read.
#[derive(Clone, Debug)]
pub(super) struct ClientKeys {
    /// The scope of the frontend, which bounds the scope of each key.
    pub(super) within: NamespaceScope,
    /// Whether clients are asked for certificates, without which no key can name a client.
    pub(super) asks_for_certificates: bool,
    /// Whether requests have priorities, without which no key can have one.
    pub(super) has_priorities: bool,
}

impl ClientKeys {
    /// Reads the keys of a configuration file.
    ///
    /// # Errors
    ///
    /// When the section is no list of keys for this frontend: one line with the file, the line and
    /// the fault.
    pub(super) fn of_section(
        &self,
        Keyring { file, section }: &Keyring,
    ) -> Result<KeyList, Failure> {
        api_keys::of_section(&section.value, self)
            .map_err(|fault| fault.told(file, KEYS_SECTION, section))
    }

    /// Reads the keys of a file of their own for the first time.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or its text is no list of keys for this frontend.
    pub(super) async fn of_file(self, path: PathBuf) -> Result<(KeyFile, KeyList), Failure> {
        let mut keys = KeyFile { file: follow(path)?, keys: self };
        let text = keys.file.read().await;
        let list = text.and_then(|text| keys.parse(&text));
        let list = list.with_context(|| Keys::api_keys.label()).map_err(Failure::Usage)?;
        Ok((keys, list))
    }
}

/// The file of the keys that clients need.
pub(super) struct KeyFile {
    file: FollowedFile,
    keys: ClientKeys,
}

impl KeyFile {
    fn parse(&self, text: &str) -> anyhow::Result<KeyList> {
        api_keys::parse(text, &self.keys).with_context(|| self.file.path().display().to_string())
    }

    /// Replaces the keys whenever the file changes. A file that cannot be used changes nothing, and is
    /// among the `problems`.
    pub(super) async fn follow(mut self, keys: ApiKeys, problems: ProgramProblems) {
        let changed = ChangedFile::new(Keys::api_keys, self.file.path(), problems);
        loop {
            let text = self.file.next().await;
            match text.and_then(|text| self.parse(&text)) {
                Ok(list) => {
                    if keys.replace(&list).await.is_err() {
                        return;
                    }
                    told(&list);
                    changed.taken_up();
                }
                Err(error) => changed.refused(&error),
            }
        }
    }
}

/// Logs the number of keys that are valid from now on.
pub(super) fn told(list: &KeyList) {
    info!(keys = list.len(), "API keys taken up");
    if list.is_empty() {
        warn!("there are no API keys: nobody gets in");
    }
}

fn follow(path: PathBuf) -> Result<FollowedFile, Failure> {
    FollowedFile::new(path).context("cannot listen for SIGHUP").map_err(Failure::Running)
}
