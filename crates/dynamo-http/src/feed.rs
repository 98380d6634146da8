//! The task between discovery and the switchboard.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dynamo_discovery::{DiscoveryEvent, Instance, Revision};
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

#[cfg(feature = "proxy")]
use crate::frontend::FrontendConfig;
#[cfg(feature = "proxy")]
use crate::hold::Hold;
use crate::hold::Keeper;
use crate::scopes::{Asked, Scopes};
use crate::switchboard::{RouteChange, SwitchboardWriter};

/// Where models are discovered.
pub struct Source {
    name: &'static str,
    events: BoxStream<'static, DiscoveryEvent>,
    remembered: Vec<Arc<Instance>>,
}

impl Source {
    /// A source, such as the stream of a [`ModelWatcher`](dynamo_discovery::ModelWatcher).
    ///
    /// Two sources must not use the same keys. The name appears in metrics.
    #[must_use]
    pub fn new(name: &'static str, events: BoxStream<'static, DiscoveryEvent>) -> Self {
        Self { name, events, remembered: Vec::new() }
    }

    /// The same source, with what an earlier run knew of it, such as a
    /// [`SavedCatalog`](dynamo_discovery::SavedCatalog).
    ///
    /// Until the source says for the first time what there is, each of these instances serves as
    /// soon as its server has answered a probe; once every server was asked and something serves,
    /// the feed counts the source as one that has said what there is. Its first answer replaces
    /// them all at once. Works in a feed with [`Feed::with_hold`], whatever the time.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn with_remembered(self, remembered: Vec<Arc<Instance>>) -> Self {
        Self { remembered, ..self }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How discovery fares, for metrics and the health page. A clone is the same status.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryStatus {
    sources: Arc<[SourceStatus]>,
    held: Arc<AtomicU64>,
}

impl DiscoveryStatus {
    /// The sources, in the order in which they were given.
    #[must_use]
    pub fn sources(&self) -> &[SourceStatus] {
        &self.sources
    }

    /// How many instances were held since the start, each time counted.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// How one source fares.
#[derive(Debug)]
pub struct SourceStatus {
    name: &'static str,
    began: Instant,
    synced: AtomicBool,
    /// Milliseconds after `began` since when it is disconnected; `CONNECTED` when it is not.
    disconnected: AtomicU64,
    denied: AtomicBool,
    revision: AtomicU64,
    resyncs: AtomicU64,
    refused: AtomicU64,
    out_of_scope: AtomicU64,
    remembered: AtomicUsize,
}

const CONNECTED: u64 = u64::MAX;

impl SourceStatus {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            began: Instant::now(),
            synced: AtomicBool::new(false),
            disconnected: AtomicU64::new(0),
            denied: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            out_of_scope: AtomicU64::new(0),
            remembered: AtomicUsize::new(0),
        }
    }

    /// The source's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has told once what there is.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// Whether its watch runs now.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.disconnected.load(Ordering::Relaxed) == CONNECTED
    }

    /// Whether it is there and does not let us read.
    #[must_use]
    pub fn denied(&self) -> bool {
        self.denied.load(Ordering::Relaxed)
    }

    /// For how many seconds what we know may be stale; 0 while connected.
    #[must_use]
    pub fn stale_seconds(&self) -> f64 {
        match self.disconnected.load(Ordering::Relaxed) {
            CONNECTED => 0.0,
            since => (self.began.elapsed().as_secs_f64() - since as f64 / 1e3).max(0.0),
        }
    }

    /// The revision that is applied.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Relaxed))
    }

    /// How often everything was listed again, the first list not counted.
    #[must_use]
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// How many entries were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many entries were out of scope.
    #[must_use]
    pub fn out_of_scope(&self) -> u64 {
        self.out_of_scope.load(Ordering::Relaxed)
    }

    /// How many instances serve that an earlier run knew and the source has not confirmed.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.remembered.load(Ordering::Relaxed)
    }

    fn note_away(&self, denied: bool) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(CONNECTED - 1);
        // Only the first of an outage tells since when.
        let _ = self.disconnected.compare_exchange(
            CONNECTED,
            now,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        self.denied.store(denied, Ordering::Relaxed);
    }

    /// Notes what an event says of the source.
    fn note(&self, event: &DiscoveryEvent) {
        match event {
            DiscoveryEvent::Batch(batch) => {
                self.revision.store(batch.revision.0, Ordering::Relaxed);
                self.refused.fetch_add(batch.refused as u64, Ordering::Relaxed);
                self.out_of_scope.fetch_add(batch.out_of_scope as u64, Ordering::Relaxed);
                if batch.resync && self.synced.swap(true, Ordering::Relaxed) {
                    self.resyncs.fetch_add(1, Ordering::Relaxed);
                }
            }
            DiscoveryEvent::Connected => {
                self.disconnected.store(CONNECTED, Ordering::Relaxed);
                self.denied.store(false, Ordering::Relaxed);
            }
            DiscoveryEvent::Disconnected => self.note_away(false),
            DiscoveryEvent::Denied => self.note_away(true),
            _ => {}
        }
    }
}

/// Feeds a switchboard from its sources.
///
/// Everything that is ready is published at once; part of a list, with what comes next. The
/// switchboard is ready when every source has told once what there is; a source that fails later
/// takes nothing back.
pub struct Feed {
    writer: SwitchboardWriter,
    status: DiscoveryStatus,
    events: SelectAll<BoxStream<'static, (usize, DiscoveryEvent)>>,
    scopes: Scopes,
    asked: UnboundedReceiver<Asked>,
    keeper: Option<Keeper>,
    /// What each source remembers.
    remembered: Vec<Vec<Arc<Instance>>>,
}

impl Feed {
    /// A feed that has not begun. [`run`](Self::run) does the work.
    pub fn new(writer: SwitchboardWriter, sources: impl IntoIterator<Item = Source>) -> Self {
        let mut statuses = Vec::new();
        let mut events = SelectAll::new();
        let mut remembered = Vec::new();
        for (index, source) in sources.into_iter().enumerate() {
            remembered.push(source.remembered);
            statuses.push(SourceStatus::new(source.name));
            events.push(source.events.map(move |event| (index, event)).boxed());
        }
        let (scopes, asked) = Scopes::new();
        let status = DiscoveryStatus { sources: statuses.into(), held: Arc::default() };
        Self { writer, status, events, scopes, asked, keeper: None, remembered }
    }

    /// The same feed, which holds instances that vanish while their servers answer.
    ///
    /// Servers are asked as the front door with this configuration asks them. Without this, and
    /// with a time of zero, what vanishes goes at once.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn with_hold(mut self, hold: Hold, config: &FrontendConfig) -> Self {
        let ask = Box::new(crate::hold::Prober::new(config));
        self.keeper = Some(Keeper::new(hold, ask, self.status.held.clone()));
        self
    }

    /// How the sources fare.
    #[must_use]
    pub fn status(&self) -> DiscoveryStatus {
        self.status.clone()
    }

    /// Opens views for further scopes, also while the feed runs.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        self.scopes.clone()
    }

    /// Feeds until the last source ends, which a watcher never does.
    pub async fn run(self) {
        /// How many events one publication takes at most.
        const AT_ONCE: usize = 1024;

        let Self { mut writer, status, events, scopes: _, mut asked, mut keeper, remembered } =
            self;
        if let Some(keeper) = &mut keeper {
            for (source, instances) in remembered.into_iter().enumerate() {
                keeper.remember(source, instances, &mut writer);
            }
        }
        let mut ready = false;
        let mut events = events.ready_chunks(AT_ONCE);
        loop {
            let chunk = tokio::select! {
                chunk = events.next() => match chunk {
                    Some(chunk) => chunk,
                    None => return,
                },
                Some(Asked { scopes, opened }) = asked.recv() => {
                    let views = scopes.iter().map(|scope| writer.open(scope)).collect();
                    log(&writer.publish());
                    // Who asked may have gone; the views are then closed again.
                    let _ = opened.send(views);
                    continue;
                }
                keeper = wait(&mut keeper) => {
                    keeper.work(&mut writer);
                    Vec::new()
                }
            };
            for (source, event) in &chunk {
                status.sources[*source].note(event);
                if let DiscoveryEvent::Batch(batch) = event {
                    match &mut keeper {
                        Some(keeper) => keeper.stage(*source, batch, &mut writer),
                        None => writer.stage(&batch.updates),
                    }
                }
            }
            if let Some(keeper) = &keeper {
                for (source, status) in status.sources.iter().enumerate() {
                    status.remembered.store(keeper.remembered(source), Ordering::Relaxed);
                }
            }
            if !ready {
                let remembers =
                    |source| keeper.as_ref().is_some_and(|keeper| keeper.remembers_enough(source));
                let mut sources = status.sources.iter().enumerate();
                if sources.all(|(source, status)| status.synced() || remembers(source)) {
                    ready = true;
                    writer.stage_ready();
                    tell_ready(&status);
                }
            }
            if chunk.is_empty() || !chunk.iter().all(|(_, event)| is_part(event)) {
                log(&writer.publish());
            }
        }
    }
}

/// Whether this is part of a list, the rest of which follows at once.
fn is_part(event: &DiscoveryEvent) -> bool {
    matches!(event, DiscoveryEvent::Batch(batch) if batch.more)
}

/// Waits until the keeper, if there is one, has something to do.
async fn wait(keeper: &mut Option<Keeper>) -> &mut Keeper {
    match keeper {
        Some(keeper) => {
            keeper.wait().await;
            keeper
        }
        None => std::future::pending().await,
    }
}

fn tell_ready(status: &DiscoveryStatus) {
    info!("discovery is ready");
    for source in status.sources.iter().filter(|source| !source.synced()) {
        let (source, instances) = (source.name, source.remembered());
        warn!(
            source,
            instances, "the source has not answered yet: what an earlier run knew of it serves"
        );
    }
}

fn log(changes: &[RouteChange]) {
    for change in changes {
        let path = change.route.path();
        let what = if change.open { "route opened" } else { "route closed" };
        info!(path, scope = %change.scope, "{what}");
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("status", &self.status).finish_non_exhaustive()
    }
}
