//! The configuration file while the frontend runs: what can change does, the rest is told.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_http::{Aliases, ApiKeys, Frontend, KeyList, ProgramProblems};
use dynamo_namespace::NamespaceScope;
use tracing::{info, warn};

use super::budget;
use super::keys::{ClientKeys, told};
use super::models;
use super::settings::{FrontendSettings, Keyring};
use super::static_workers::StaticWorkers;
use crate::failure::Failure;
use crate::followed_file::FollowedFile;
use crate::logging::Filter;
use crate::settings::Setting;
use crate::settings::file::ConfigFile;
use crate::settings::given::Given;
use crate::settings::table::{FRONTEND, KEYS_SECTION, Keys, MODELS_SECTION, Workers};

/// The subject of what the problems say of the file.
const SUBJECT: &str = "the configuration file";

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
    problems: ProgramProblems,
}

/// What follows the file.
pub(super) struct Held {
    /// Which logs are written.
    pub(super) filter: Filter,
    /// The keys, if the frontend started with some in the file.
    pub(super) keys: Option<(ClientKeys, ApiKeys)>,
    /// The names that clients ask for.
    pub(super) aliases: Aliases,
    /// Whether workers can register.
    pub(super) has_store: bool,
    /// The scope, to which static workers belong that name no namespace.
    pub(super) scope: NamespaceScope,
    /// The static workers.
    pub(super) workers: Option<StaticWorkers>,
    /// What has the limits.
    pub(super) frontend: Frontend,
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
        problems: ProgramProblems,
    ) -> std::io::Result<Self> {
        let (file, started) = (FollowedFile::new(path)?, given.clone());
        Ok(Self { file, started, given, held, reloads, problems })
    }

    /// Takes up each change. A file that cannot be used changes nothing, and is among the problems until
    /// the next one that can.
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
                    self.problems.end(SUBJECT);
                }
                Err(error) => {
                    self.reloads.refused.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, "the configuration file cannot be used; the last good one stands");
                    let text = format!(
                        "The configuration file cannot be used, the last good one stands: {error}"
                    );
                    self.problems.tell(SUBJECT, &text);
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
        let settings = super::settings::read(&given)?;
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
        let limits = budget::with_body_memory(settings.config.clone(), settings.body_memory);
        self.held.frontend.take_up_limits(&limits);
        let changes = given.changes(&self.started, &FRONTEND);
        let takes_workers = self.take_workers(settings, &changes);
        let is_waiting = |setting: &Setting| match setting.name {
            name if name == Workers::worker_url.name => !takes_workers,
            _ => !setting.is_followed,
        };
        let mut waiting: Vec<_> = changes
            .iter()
            .filter(|setting| is_waiting(setting))
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

    /// Takes up the static workers, unless the file has another scope or another store for them, or
    /// other terms: those wait for a restart, and until then the workers would be another team's, or
    /// would get another one's key.
    fn take_workers(&mut self, settings: FrontendSettings, changes: &[&Setting]) -> bool {
        let terms = [Workers::worker_network, Workers::worker_ca, Keys::worker_api_key_file];
        let are_terms = |setting: &&Setting| terms.iter().any(|term| term.name == setting.name);
        let Held { has_store, scope, workers, .. } = &mut self.held;
        let is_as_it_was = settings.etcd.is_some() == *has_store
            && settings.scope.scope == *scope
            && !changes.iter().any(are_terms);
        let Some(workers) = workers.as_mut().filter(|_| is_as_it_was) else { return false };
        workers.replace(settings.workers);
        true
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
            (Some((keys, _)), Some(keyring)) => keys.of_section(&keyring).map(Some),
            _ => Ok(None),
        }
    }
}
