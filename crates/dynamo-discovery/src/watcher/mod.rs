//! The watcher: one scope's models, kept current for as long as it is polled.

mod config;
mod event;
mod log;

use std::sync::Arc;

use dynamo_namespace::NamespaceScope;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tracing::info;

pub use self::config::{WatchScope, WatcherConfig, WatcherError};
pub use self::event::{DiscoveryBatch, DiscoveryEvent};
use self::log::{Needs, Told};
use crate::catalog::{Applied, Catalog, Relist, StoreEvent};
use crate::instance::Instance;
use crate::network_prefix::NetworkPrefix;
use crate::store::{Change, Entry, Revision, StoreError, WatchStore};
use crate::store_watcher::{Signal, StoreWatcher};

/// Discovers the models of one scope.
///
/// A watcher lists, watches, resumes and lists again for as long as it is polled. It never ends. While
/// the store is away, all known instances stand.
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
#[derive(derive_more::Debug)]
#[debug("ModelWatcher({target_namespace}, {prefix})")]
pub struct ModelWatcher {
    store: StoreWatcher,
    catalog: Catalog,
    /// The revision that is applied.
    revision: Revision,
    /// The list that is coming in, unless its pages are applied as they come.
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

    /// Watches as configured.
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
                    self.told.begin();
                    // No instance can vanish from an empty catalog, so pages are applied at once.
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
                    self.told.begin();
                    return self.batch(Part::Change, applied);
                }
                Signal::Up => {
                    self.told.connected();
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
            ignored: applied.ignored.len(),
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

/// Watches, and sends every event to `events`. It returns when the receiver is gone.
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

/// Where a batch comes from.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// A page of a first list, not the last one.
    OfList,
    EndOfList,
    Change,
}

fn puts(entries: Vec<Entry>) -> StoreEvent {
    StoreEvent::Batch(entries.into_iter().map(Change::Put).collect())
}
