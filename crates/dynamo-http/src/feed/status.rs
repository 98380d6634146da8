//! The state of discovery, source by source.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dynamo_discovery::{DiscoveryEvent, Revision};

/// The state of discovery, for metrics and the health page. A clone is the same status.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryStatus {
    sources: Arc<[SourceStatus]>,
    held: Arc<AtomicU64>,
}

impl DiscoveryStatus {
    pub(super) fn of(sources: Vec<SourceStatus>) -> Self {
        Self { sources: sources.into(), held: Arc::default() }
    }

    /// Counts instances that are held from now on.
    pub(crate) fn add_held(&self, instances: usize) {
        self.held.fetch_add(instances as u64, Ordering::Relaxed);
    }

    /// The sources, in the order in which they were given.
    pub fn sources(&self) -> &[SourceStatus] {
        &self.sources
    }

    /// How often an instance was held since the start.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// The state of one source.
#[derive(Debug)]
pub struct SourceStatus {
    name: Cow<'static, str>,
    began: Instant,
    synced: AtomicBool,
    /// The time of the disconnection in milliseconds since `began`; `CONNECTED` while the watch
    /// runs.
    disconnected: AtomicU64,
    denied: AtomicBool,
    revision: AtomicU64,
    resyncs: AtomicU64,
    refused: AtomicU64,
    ignored: AtomicU64,
    out_of_scope: AtomicU64,
    remembered: AtomicUsize,
}

const CONNECTED: u64 = u64::MAX;

impl SourceStatus {
    pub(super) fn new(name: Cow<'static, str>) -> Self {
        Self {
            name,
            began: Instant::now(),
            synced: AtomicBool::new(false),
            disconnected: AtomicU64::new(0),
            denied: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            out_of_scope: AtomicU64::new(0),
            remembered: AtomicUsize::new(0),
        }
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the source has delivered its first list.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// Whether the source's watch runs now.
    pub fn connected(&self) -> bool {
        self.disconnected.load(Ordering::Relaxed) == CONNECTED
    }

    /// Whether the store answers and denies the read.
    pub fn denied(&self) -> bool {
        self.denied.load(Ordering::Relaxed)
    }

    /// For how many seconds the source has been disconnected, so that its instances may be stale; 0
    /// while connected.
    pub fn stale_seconds(&self) -> f64 {
        match self.disconnected.load(Ordering::Relaxed) {
            CONNECTED => 0.0,
            since => (self.began.elapsed().as_secs_f64() - since as f64 / 1e3).max(0.0),
        }
    }

    /// The last revision that was applied.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Relaxed))
    }

    /// The number of full lists after the first list.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// How many invalid fields of live entries were ignored, such as the address of a control port.
    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// How many entries were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many entries were out of scope.
    pub fn out_of_scope(&self) -> u64 {
        self.out_of_scope.load(Ordering::Relaxed)
    }

    /// How many instances serve that an earlier run knew and the source has not confirmed.
    pub fn remembered(&self) -> usize {
        self.remembered.load(Ordering::Relaxed)
    }

    /// Sets the number that [`remembered`](Self::remembered) returns.
    pub(super) fn note_remembered(&self, instances: usize) {
        self.remembered.store(instances, Ordering::Relaxed);
    }

    fn note_away(&self, denied: bool) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(CONNECTED - 1);
        // The first event of an outage sets its beginning, and later events leave it.
        let _ = self.disconnected.compare_exchange(
            CONNECTED,
            now,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        self.denied.store(denied, Ordering::Relaxed);
    }

    /// Brings the state up to date with an event of the source.
    pub(super) fn note(&self, event: &DiscoveryEvent) {
        match event {
            DiscoveryEvent::Batch(batch) => {
                self.revision.store(batch.revision.0, Ordering::Relaxed);
                self.refused.fetch_add(batch.refused as u64, Ordering::Relaxed);
                self.ignored.fetch_add(batch.ignored as u64, Ordering::Relaxed);
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
