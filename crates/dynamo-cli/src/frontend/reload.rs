//! The configuration file while the frontend runs: what can change does, the rest is told.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_http::{Aliases, ApiKeys, KeyList};
use tracing::{info, warn};

use super::keys::{ClientKeys, told};
use super::models;
use super::settings::Keyring;
use crate::failure::Failure;
use crate::followed_file::FollowedFile;
use crate::logging::Filter;
use crate::settings::file::ConfigFile;
use crate::settings::given::Given;
use crate::settings::table::{FRONTEND, KEYS_SECTION, MODELS_SECTION};

/// How often the file was taken up, and how often refused.
#[derive(Debug)]
pub(super) struct Reloads {
    taken_up: AtomicU64,
    refused: AtomicU64,
}

impl Reloads {
    pub(super) const fn new() -> Self {
        Self { taken_up: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// The metrics, in Prometheus' text format.
    pub(super) fn text(&self) -> String {
        let name = "dynamo_frontend_config_reloads_total";
        let [taken_up, refused] =
            [&self.taken_up, &self.refused].map(|count| count.load(Ordering::Relaxed));
        format!(
            "# HELP {name} Changes of the configuration file, by what became of them\n\
             # TYPE {name} counter\n\
             {name}{{outcome=\"taken_up\"}} {taken_up}\n\
             {name}{{outcome=\"refused\"}} {refused}\n"
        )
    }
}

/// What a change of the file can change.
pub(super) struct Reloading {
    file: FollowedFile,
    /// What the frontend was given when it started.
    started: Given,
    /// The last that was taken up.
    given: Given,
    held: Held,
    reloads: &'static Reloads,
}

/// What follows the file.
pub(super) struct Held {
    /// Which logs are written.
    pub(super) filter: Filter,
    /// The keys, if the frontend started with some in the file.
    pub(super) keys: Option<(ClientKeys, ApiKeys)>,
    /// The names that clients ask for.
    pub(super) aliases: Aliases,
}

impl Reloading {
    /// Follows the file at `path`.
    ///
    /// # Errors
    ///
    /// When the handler for SIGHUP cannot be installed.
    pub(super) fn new(
        path: PathBuf,
        given: Given,
        held: Held,
        reloads: &'static Reloads,
    ) -> std::io::Result<Self> {
        let (file, started) = (FollowedFile::new(path)?, given.clone());
        Ok(Self { file, started, given, held, reloads })
    }

    /// Takes up each change. A file that cannot be used changes nothing.
    pub(super) async fn run(mut self) {
        loop {
            let text = self.file.next().await;
            let taken_up = match text {
                Ok(text) => self.take_up(&text).await,
                Err(error) => Err(Failure::Usage(error)),
            };
            match taken_up {
                Ok(()) => {
                    self.reloads.taken_up.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.reloads.refused.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, "the configuration file cannot be used; the last good one stands");
                }
            }
        }
    }

    async fn take_up(&mut self, text: &str) -> Result<(), Failure> {
        let environment = &self.given.environment;
        let file = ConfigFile::parse(self.file.path(), text, &FRONTEND, environment)?;
        let given = self.given.with_file(file);
        if given.file == self.given.file {
            return Ok(());
        }
        // All is checked before the first thing changes.
        super::settings::read(&given)?;
        let table = models::read(&given)?;
        let list = self.key_list(&given)?;
        self.held.filter.change(&given)?;
        if self.differs(&given, MODELS_SECTION) {
            info!(names = table.len(), "names of models taken up");
            self.held.aliases.replace(table);
        }
        if let (Some(list), Some((_, keys))) = (&list, &self.held.keys)
            && keys.replace(list).await.is_ok()
        {
            told(list);
        }
        let changes = given.changes(&self.started, &FRONTEND);
        let mut waiting: Vec<_> = changes
            .iter()
            .filter(|setting| !setting.is_followed)
            .map(|setting| setting.name)
            .collect();
        if Keyring::of(&given).is_some() != self.held.keys.is_some() {
            waiting.push(KEYS_SECTION);
        }
        if waiting.is_empty() {
            info!("the configuration file was taken up");
        } else {
            warn!(
                settings = waiting.join(", "),
                "the configuration file was taken up, but for settings that need a restart"
            );
        }
        self.given = given;
        Ok(())
    }

    /// Whether a section says something else than before.
    fn differs(&self, given: &Given, section: &str) -> bool {
        let of = |given: &'_ Given| {
            let section = given.file.as_ref()?.section(section)?;
            Some(section.value.clone())
        };
        of(given) != of(&self.given)
    }

    /// The keys of a changed file, where the frontend asks for keys of the file.
    fn key_list(&self, given: &Given) -> Result<Option<KeyList>, Failure> {
        match (&self.held.keys, Keyring::of(given)) {
            (Some((keys, _)), Some(keyring)) => {
                keys.of_section(&keyring).map(Some).map_err(Failure::Usage)
            }
            _ => Ok(None),
        }
    }
}
