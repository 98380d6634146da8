//! The keys of clients: read when the frontend starts, and again when they change.

use std::path::PathBuf;

use anyhow::Context as _;
use dynamo_http::{ApiKeys, KeyList};
use dynamo_namespace::NamespaceScope;
use tracing::{info, warn};

use super::api_keys;
use crate::failure::Failure;
use crate::followed_file::FollowedFile;
use crate::key_file::refused;
use crate::settings::table::Keys;

/// The file of the keys that clients need.
pub(super) struct ClientKeys {
    file: FollowedFile,
    /// The scope of the frontend, which bounds the scope of each key.
    within: NamespaceScope,
    /// Whether clients are asked for certificates, without which no key can name a client.
    asks_for_certificates: bool,
}

impl ClientKeys {
    /// Reads the keys for the first time.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or its text is no list of keys for this frontend.
    pub(super) async fn read(
        path: PathBuf,
        within: NamespaceScope,
        asks_for_certificates: bool,
    ) -> Result<(Self, KeyList), Failure> {
        let mut keys = Self { file: follow(path)?, within, asks_for_certificates };
        let text = keys.file.read().await;
        let list = text.and_then(|text| keys.parse(&text));
        let list = list.with_context(|| Keys::api_keys.label()).map_err(Failure::Usage)?;
        Ok((keys, list))
    }

    fn parse(&self, text: &str) -> anyhow::Result<KeyList> {
        api_keys::parse(text, &self.within, self.asks_for_certificates)
            .with_context(|| self.file.path().display().to_string())
    }

    /// Replaces the keys whenever the file changes. A file that cannot be used changes nothing.
    pub(super) async fn follow(mut self, keys: ApiKeys) {
        loop {
            let text = self.file.next().await;
            match text.and_then(|text| self.parse(&text)) {
                Ok(list) => {
                    if keys.replace(&list).await.is_err() {
                        return;
                    }
                    told(&list);
                }
                Err(error) => refused(Keys::api_keys, &error),
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
