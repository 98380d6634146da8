//! The watcher: one scope's models, kept current for as long as it is polled.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use dynamo_namespace::{InvalidNamespace, NamespaceScope};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::catalog::{Applied, Catalog, Gone, ModelUpdate, Refused, Relist, StoreEvent};
use crate::error_chain::ErrorChain;
use crate::instance::Instance;
use crate::network_prefix::NetworkPrefix;
use crate::store::{Change, Entry, Key, KeyRange, Revision, StoreError, WatchStore};
use crate::store_watcher::{Signal, StoreWatcher};
use crate::timing::Timing;

/// What a watcher tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// The store said something; the first one says what there is, maybe nothing, and goes on in the
    /// next for as long as there is [`more`](DiscoveryBatch::more).
    Batch(DiscoveryBatch),
    /// The watch runs.
    Connected,
    /// It does not, and is being tried again. What was known stands.
    Disconnected,
    /// The same, and the store is there: it does not let us read.
    Denied,
}

/// Everything that one answer of the store changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveryBatch {
    /// The store's revision that is applied now.
    pub revision: Revision,
    /// Whether this follows from a full list.
    pub resync: bool,
    /// Whether this is part of a list of which more follows in a batch of its own, so that work on
    /// this one need not wait. The revision is the one before the list, and this is no resync.
    ///
    /// Only while nothing is known do lists come in parts: there is nothing that could be missing
    /// from one. Should the list break, what came stands, and the next one is compared with it.
    pub more: bool,
    /// The changes, in order.
    pub updates: Vec<ModelUpdate>,
    /// Keys that were not live and were put draining or refused.
    pub unserved: Vec<Key>,
    /// How many entries were refused.
    pub refused: usize,
    /// How many entries were out of scope.
    pub out_of_scope: usize,
}

/// Which keys the store is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchScope {
    /// All under the root; the catalog takes what is in scope. Sees flat keys, which do not show
    /// their namespace.
    #[default]
    Value,
    /// The scope's own key range: the cost follows the namespace and not the cluster, and the
    /// store's own roles can fence teams off. Flat keys are invisible.
    Key,
}

/// Which entries of which store a [`ModelWatcher`] discovers, and how long it waits.
///
/// ```
/// use std::sync::Arc;
/// use dynamo_discovery::{MemoryStore, ModelWatcher, WatchScope, WatcherConfig};
/// use dynamo_namespace::NamespaceScope;
///
/// let config = WatcherConfig::new(Arc::new(MemoryStore::new()))
///     .with_network_prefix("staging/models/".parse()?)
///     .with_target_namespace(NamespaceScope::Generations("team-a".parse()?))
///     .with_watch_scope(WatchScope::Key);
/// let watcher = ModelWatcher::new(config)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WatcherConfig {
    store: Arc<dyn WatchStore>,
    network_prefix: NetworkPrefix,
    target_namespace: NamespaceScope,
    watch_scope: WatchScope,
    timing: Timing,
}

impl WatcherConfig {
    /// All entries below the default [`NetworkPrefix`], with the default [`Timing`].
    #[must_use]
    pub fn new(store: Arc<dyn WatchStore>) -> Self {
        Self {
            store,
            network_prefix: NetworkPrefix::default(),
            target_namespace: NamespaceScope::All,
            watch_scope: WatchScope::default(),
            timing: Timing::default(),
        }
    }

    /// Sets the scope whose entries are discovered. By default all are.
    #[must_use]
    pub fn with_target_namespace(self, target_namespace: NamespaceScope) -> Self {
        Self { target_namespace, ..self }
    }

    /// Sets the root of the keys. By default it is [`NetworkPrefix::default`].
    #[must_use]
    pub fn with_network_prefix(self, network_prefix: NetworkPrefix) -> Self {
        Self { network_prefix, ..self }
    }

    /// Sets which keys the store is asked for. By default [`WatchScope::Value`].
    #[must_use]
    pub fn with_watch_scope(self, watch_scope: WatchScope) -> Self {
        Self { watch_scope, ..self }
    }

    /// Sets how long the watcher waits.
    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// The scope whose entries are discovered.
    #[must_use]
    pub fn target_namespace(&self) -> &NamespaceScope {
        &self.target_namespace
    }

    fn range(&self) -> Result<KeyRange, WatcherError> {
        match self.watch_scope {
            WatchScope::Value => Ok(self.network_prefix.range()),
            WatchScope::Key => self
                .network_prefix
                .narrow_range(&self.target_namespace)
                .ok_or_else(|| WatcherError::NothingToNarrow(self.target_namespace.clone())),
        }
    }
}

impl fmt::Debug for WatcherConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatcherConfig")
            .field("network_prefix", &self.network_prefix)
            .field("target_namespace", &self.target_namespace)
            .field("watch_scope", &self.watch_scope)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// Why a watcher cannot be configured so. Once it runs, nothing ends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatcherError {
    /// The target is no namespace.
    #[error(transparent)]
    Namespace(#[from] InvalidNamespace),
    /// [`WatchScope::Key`] with a scope that has no key range of its own.
    #[error("the scope \"{0}\" has no key range of its own to watch")]
    NothingToNarrow(NamespaceScope),
}

/// Discovers the models of one scope.
///
/// It lists, watches, resumes and lists again for as long as it is polled, and never ends. While
/// the store is away, what was known stands.
///
/// ```
/// use std::sync::Arc;
/// use dynamo_discovery::{MemoryStore, ModelWatcher};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut watcher = ModelWatcher::watch(Arc::new(MemoryStore::new()), Some("team-a"))?;
///
/// // The first batch says what there is: nothing yet.
/// let first = watcher.next_batch().await;
/// assert!(first.resync && first.updates.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct ModelWatcher {
    store: StoreWatcher,
    catalog: Catalog,
    /// The revision that is applied.
    revision: Revision,
    /// The list that is coming in, unless it is taken in as it comes.
    relist: Option<Relist>,
    target_namespace: NamespaceScope,
    prefix: NetworkPrefix,
    needs: Needs,
    begun: bool,
    told: Told,
}

impl ModelWatcher {
    /// Watches one namespace, or all without one or with the global one.
    ///
    /// # Errors
    ///
    /// [`WatcherError::Namespace`] when the target is no namespace.
    pub fn watch(
        store: Arc<dyn WatchStore>,
        target_namespace: Option<&str>,
    ) -> Result<Self, WatcherError> {
        let scope = NamespaceScope::from_target(target_namespace)?;
        Self::new(WatcherConfig::new(store).with_target_namespace(scope))
    }

    /// Watches what the configuration says.
    ///
    /// # Errors
    ///
    /// [`WatcherError::NothingToNarrow`].
    pub fn new(config: WatcherConfig) -> Result<Self, WatcherError> {
        let range = config.range()?;
        let needs = Needs {
            range: range.clone(),
            narrower: config
                .network_prefix
                .narrow_range(&config.target_namespace)
                .filter(|narrow| *narrow != range),
        };
        Ok(Self {
            needs,
            store: StoreWatcher::new(config.store, range, config.timing),
            catalog: Catalog::new(config.network_prefix.clone(), config.target_namespace.clone()),
            revision: Revision::default(),
            relist: None,
            target_namespace: config.target_namespace,
            prefix: config.network_prefix,
            begun: false,
            told: Told::default(),
        })
    }

    /// The next batch, for a caller who does not ask how the store fares.
    ///
    /// It passes over [`Connected`](DiscoveryEvent::Connected),
    /// [`Disconnected`](DiscoveryEvent::Disconnected) and [`Denied`](DiscoveryEvent::Denied), so it
    /// waits for as long as the store is away. The future may be dropped; no batch is lost by it.
    ///
    /// # Panics
    ///
    /// As [`next`](Self::next).
    pub async fn next_batch(&mut self) -> DiscoveryBatch {
        loop {
            if let DiscoveryEvent::Batch(batch) = self.next().await {
                return batch;
            }
        }
    }

    /// The next event. There always is one. The future may be dropped; no event is lost by it.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with its time enabled.
    pub async fn next(&mut self) -> DiscoveryEvent {
        if !std::mem::replace(&mut self.begun, true) {
            info!(target_namespace = %self.target_namespace, prefix = %self.prefix, "watching");
        }
        loop {
            match self.store.next().await {
                Signal::Listing => {
                    self.told.so_far = Counts::default();
                    // Nothing can vanish from an empty catalog, so there what comes counts at once.
                    let first = self.catalog.instances().next().is_none();
                    self.relist = (!first).then(Relist::default);
                }
                Signal::Page(entries) => match &mut self.relist {
                    Some(relist) => self.catalog.take_page(relist, entries),
                    None => {
                        let applied = self.catalog.apply(puts(entries));
                        return self.batch(Part::OfList, applied);
                    }
                },
                Signal::Listed { revision, entries } => {
                    let applied = match self.relist.take() {
                        Some(mut relist) => {
                            self.catalog.take_page(&mut relist, entries);
                            self.catalog.resync(relist)
                        }
                        None => self.catalog.apply(puts(entries)),
                    };
                    self.revision = revision;
                    return self.batch(Part::EndOfList, applied);
                }
                Signal::Batch { revision, changes } => {
                    let applied = self.catalog.apply(StoreEvent::Batch(changes));
                    self.revision = revision;
                    self.told.so_far = Counts::default();
                    return self.batch(Part::Change, applied);
                }
                Signal::Up => {
                    info!("connected to the store");
                    self.told.outages.clear();
                    return DiscoveryEvent::Connected;
                }
                Signal::Down(error) => {
                    let event = match error {
                        StoreError::Denied(_) => DiscoveryEvent::Denied,
                        _ => DiscoveryEvent::Disconnected,
                    };
                    self.told.outage(&event, &error, &self.needs);
                    return event;
                }
            }
        }
    }

    fn batch(&mut self, part: Part, applied: Applied) -> DiscoveryEvent {
        self.told.tell(&applied);
        if part == Part::EndOfList {
            self.told.listed(self.revision);
        }
        DiscoveryEvent::Batch(DiscoveryBatch {
            revision: self.revision,
            resync: part == Part::EndOfList,
            more: part == Part::OfList,
            updates: applied.updates,
            unserved: applied.unserved,
            refused: applied.refused.len(),
            out_of_scope: applied.out_of_scope,
        })
    }

    /// The live instances, in no order.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.catalog.instances()
    }

    /// The events as a stream that never ends.
    ///
    /// Polling the stream panics as [`next`](Self::next) does.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, DiscoveryEvent> {
        stream::unfold(self, |mut watcher| async {
            let event = watcher.next().await;
            Some((event, watcher))
        })
        .boxed()
    }
}

impl fmt::Debug for ModelWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelWatcher")
            .field("target_namespace", &self.target_namespace)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Watches and sends every event to `events`; returns when the receiver is gone.
///
/// # Errors
///
/// [`WatcherError::NothingToNarrow`], before anything is watched.
///
/// # Panics
///
/// Outside of a Tokio runtime with its time enabled.
pub async fn run_watcher(
    config: WatcherConfig,
    events: mpsc::Sender<DiscoveryEvent>,
) -> Result<(), WatcherError> {
    let mut watcher = ModelWatcher::new(config)?;
    loop {
        let event = tokio::select! {
            event = watcher.next() => event,
            () = events.closed() => return Ok(()),
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

/// What a batch is of.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// A first list, not its last part.
    OfList,
    EndOfList,
    Change,
}

fn puts(entries: Vec<Entry>) -> StoreEvent {
    StoreEvent::Batch(entries.into_iter().map(Change::Put).collect())
}

/// What a watcher must be allowed to read.
struct Needs {
    range: KeyRange,
    /// What would do with [`WatchScope::Key`].
    narrower: Option<KeyRange>,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, narrower } = self;
        write!(f, "read permission for the keys from {} to {}", range.start(), range.end())?;
        match narrower {
            Some(narrow) => write!(
                f,
                "; with the watch scope `key` only from {} to {}",
                narrow.start(),
                narrow.end()
            ),
            None => Ok(()),
        }
    }
}

/// What was logged, so that nothing is logged twice and a flood stays short.
#[derive(Default)]
struct Told {
    refused: HashSet<Key>,
    /// Of this outage.
    outages: Vec<DiscoveryEvent>,
    /// What this batch has changed so far, or all batches of this list.
    so_far: Counts,
}

#[derive(Default)]
struct Counts {
    changes: usize,
    refused: usize,
    out_of_scope: usize,
}

impl Told {
    /// How many refused keys are remembered.
    const REMEMBERED: usize = 1024;
    /// How many changes of one batch, or of one list, are told at info level.
    const CHANGES: usize = 16;

    fn outage(&mut self, event: &DiscoveryEvent, error: &StoreError, needs: &Needs) {
        if self.outages.contains(event) {
            return;
        }
        self.outages.push(event.clone());
        let error = ErrorChain(error);
        if *event == DiscoveryEvent::Denied {
            error!(
                %error,
                %needs,
                "the store denies access, retrying; what is known stays in service"
            );
        } else {
            warn!(%error, "store unavailable, retrying; what is known stays in service");
        }
    }

    fn listed(&self, revision: Revision) {
        let Counts { changes, refused, out_of_scope } = self.so_far;
        info!(%revision, changes, refused, out_of_scope, "listed");
    }

    fn tell(&mut self, applied: &Applied) {
        for (index, update) in applied.updates.iter().enumerate() {
            tell_update(update, self.so_far.changes + index < Self::CHANGES);
        }
        self.so_far.changes += applied.updates.len();
        self.so_far.refused += applied.refused.len();
        self.so_far.out_of_scope += applied.out_of_scope;
        for refused in &applied.refused {
            self.tell_refused(refused);
        }
        for key in &applied.unknown_deletes {
            debug!(%key, "deleted key was not known");
        }
    }

    fn tell_refused(&mut self, refused: &Refused) {
        if self.refused.len() >= Self::REMEMBERED {
            self.refused.clear();
        }
        if self.refused.insert(refused.key.clone()) {
            warn!(
                error = %ErrorChain(&refused.error),
                model_name = refused.model.as_deref(),
                namespace = refused.namespace.as_ref().map(AsRef::<str>::as_ref),
                key = %refused.key,
                "entry refused"
            );
        }
    }
}

fn tell_update(update: &ModelUpdate, prominent: bool) {
    let tell = |instance: &Instance, gone: Option<Gone>, what: &str| {
        let entry = instance.entry();
        let (model_name, endpoint) = (entry.name(), entry.endpoint());
        let gone = gone.map(tracing::field::debug);
        if prominent {
            info!(model_name, %endpoint, key = %instance.key(), gone, "{what}");
        } else {
            debug!(model_name, %endpoint, key = %instance.key(), gone, "{what}");
        }
        for flag in entry.unknown_kinds() {
            debug!(model_name, flag = %flag.escape_default(), "unknown flag skipped");
        }
    };
    match update {
        ModelUpdate::Added(new) => tell(new, None, "instance added"),
        ModelUpdate::Changed { new, .. } => tell(new, None, "instance changed"),
        ModelUpdate::Removed(old, gone) => tell(old, Some(*gone), "instance removed"),
    }
}
