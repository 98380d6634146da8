//! Shares the counts of a frontend with its group, for as long as the frontend runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{info, warn};

use super::counting::{Counting, WindowCounts};
use super::group::{UsageGroup, UsageKey};
use super::tally::{Taken, UsageTally};
use super::writer::Writer;
use crate::counter_store::CounterStore;
use crate::error_chain::ErrorChain;
use crate::random;
use crate::store::{Change, Entry, Key, StoreError};
use crate::store_watcher::{Signal, StoreWatcher};
use crate::timing::Timing;

/// How often counts are written.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many intervals a frontend is present without a sign of life.
const PRESENT: u32 = 3;
/// How long the last write of a frontend that ends may take.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// From so many frontends that have ended on, a window is worth a warning.
const MANY_DEAD: usize = 50;

/// How the sharing fares.
#[derive(Debug, Default)]
pub struct UsageStatus {
    connected: AtomicBool,
    frontends: watch::Sender<u64>,
    failures: AtomicU64,
}

impl UsageStatus {
    /// Whether the counts of the others are followed.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// How many frontends of the group live, as far as is known: while the store is away or its list is
    /// read, the number that was known last.
    pub fn frontends(&self) -> u64 {
        *self.frontends.borrow()
    }

    /// Follows how many frontends of the group live. The number is that of
    /// [`frontends`](Self::frontends).
    pub fn follow_frontends(&self) -> watch::Receiver<u64> {
        self.frontends.subscribe()
    }

    /// How often counts could not be written.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// Shares the counts of one frontend with its group.
///
/// While the store is away, the frontend counts alone; what it has counted meanwhile is written when
/// the store is back.
#[derive(derive_more::Debug)]
#[debug("UsageSharing({group}, {frontend})")]
#[must_use]
pub struct UsageSharing {
    store: Arc<dyn CounterStore>,
    group: UsageGroup,
    frontend: String,
    counting: Arc<dyn Counting>,
    interval: Duration,
    status: Arc<UsageStatus>,
}

impl UsageSharing {
    /// Shares what `counting` counts, under a name that no other process has.
    pub fn new(
        store: Arc<dyn CounterStore>,
        group: UsageGroup,
        counting: Arc<dyn Counting>,
    ) -> Self {
        let frontend = format!("{:016x}{:016x}", random::number(), random::number());
        let (interval, status) = (INTERVAL, Arc::default());
        Self { store, group, frontend, counting, interval, status }
    }

    /// The same with another time between two writes. By default 10 s.
    pub fn with_interval(self, interval: Duration) -> Self {
        Self { interval: interval.max(Duration::from_millis(1)), ..self }
    }

    /// How the sharing fares, while it runs.
    pub fn status(&self) -> Arc<UsageStatus> {
        self.status.clone()
    }

    /// Shares until `stop` is ready, and then writes once more.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with its time enabled.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let term = self.interval * PRESENT;
        let writer =
            Writer::new(self.store.clone(), self.group.clone(), self.frontend.clone(), term);
        let lost = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            group: self.group.clone(),
            frontend: self.frontend.clone(),
            counting: self.counting.clone(),
            status: self.status.clone(),
            lost: lost.clone(),
            tally: UsageTally::default(),
            live: BTreeMap::new(),
            warned: BTreeSet::new(),
            was_read: false,
            is_listed: false,
            told_invalid: false,
        };
        info!(group = %self.group, frontend = %self.frontend, "sharing the usage of keys");
        let watcher = StoreWatcher::new(self.store.clone(), self.group.range(), Timing::default());
        tokio::select! {
            () = reader.follow(watcher, self.interval) => {}
            () = self.keep_written(writer, &lost, stop) => {}
        }
    }

    async fn keep_written(
        &self,
        mut writer: Writer,
        lost: &AtomicBool,
        stop: impl Future<Output = ()>,
    ) {
        // Frontends that were started together do not write together.
        let first = Instant::now() + self.interval.mul_f64(fastrand::f64());
        let mut ticks = interval_at(first, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let mut fails = false;
        loop {
            let stops = tokio::select! {
                _ = ticks.tick() => false,
                () = &mut stop => true,
            };
            if lost.swap(false, Ordering::Relaxed) {
                writer.doubt();
            }
            if stops {
                let last = async {
                    let written = writer.write(self.counting.counted()).await;
                    writer.leave().await;
                    written
                };
                if !matches!(timeout(LAST_WRITE, last).await, Ok(Ok(()))) {
                    warn!("the last counts of the usage of keys were not written");
                }
                return;
            }
            match writer.write(self.counting.counted()).await {
                Ok(()) if std::mem::take(&mut fails) => {
                    info!("the usage of keys is written again");
                }
                Ok(()) => {}
                Err(error) => {
                    self.status.failures.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut fails, true) {
                        warn!(error = %ErrorChain(&error), "the usage of keys cannot be written");
                    }
                }
            }
        }
    }
}

/// Follows what the others have counted.
struct Reader {
    group: UsageGroup,
    frontend: String,
    counting: Arc<dyn Counting>,
    status: Arc<UsageStatus>,
    /// Whether counts of our own may be missing in the store.
    lost: Arc<AtomicBool>,
    tally: UsageTally,
    /// The keys of counts that the store has, with their windows.
    live: BTreeMap<Key, String>,
    /// The windows that were warned of.
    warned: BTreeSet<String>,
    was_read: bool,
    /// Whether the entries are all there: a list that is being read lacks some.
    is_listed: bool,
    /// Whether an invalid entry was told of.
    told_invalid: bool,
}

impl Reader {
    async fn follow(mut self, mut watcher: StoreWatcher, interval: Duration) {
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                signal = watcher.next() => self.hear(signal),
                _ = ticks.tick() => self.look_after(),
            }
            if self.is_listed {
                let present = self.tally.present() as u64;
                self.status
                    .frontends
                    .send_if_modified(|known| std::mem::replace(known, present) != present);
            }
        }
    }

    fn hear(&mut self, signal: Signal) {
        match signal {
            Signal::Listing => {
                self.tally.forget_present();
                self.live.clear();
                self.is_listed = false;
            }
            Signal::Page(entries) => self.take(entries.into_iter().map(Change::Put)),
            Signal::Listed { entries, .. } => {
                self.take(entries.into_iter().map(Change::Put));
                // It may be a list of another store, or of one that somebody has tidied up.
                self.lost.store(true, Ordering::Relaxed);
                self.was_read = true;
                self.is_listed = true;
            }
            Signal::Batch { changes, .. } => self.take(changes),
            Signal::Up => {
                self.status.connected.store(true, Ordering::Relaxed);
                info!(frontends = self.tally.present(), "the usage of the group is followed");
            }
            Signal::Down(error) => {
                self.status.connected.store(false, Ordering::Relaxed);
                self.tell_down(&error);
            }
        }
    }

    fn tell_down(&self, error: &StoreError) {
        let error = ErrorChain(error);
        if self.was_read {
            warn!(%error, "the usage store is away: this frontend counts alone from now on");
        } else {
            warn!(%error, "the usage store was never read: this frontend counts alone, from nothing");
        }
    }

    fn take(&mut self, changes: impl IntoIterator<Item = Change>) {
        let mut changed = BTreeSet::new();
        for change in changes {
            match change {
                Change::Put(entry) => self.put(&entry, &mut changed),
                Change::Delete(key) => self.deleted(&key),
            }
        }
        for window in changed {
            self.tell(&window);
        }
    }

    fn put(&mut self, entry: &Entry, changed: &mut BTreeSet<String>) {
        match self.tally.take(&self.group, entry) {
            Taken::Window(window) => {
                self.live.insert(entry.key.clone(), window.clone());
                changed.insert(window);
            }
            Taken::Nothing | Taken::Present => {
                if let Some(UsageKey::Counts { window, .. }) = self.group.parse(&entry.key) {
                    self.live.insert(entry.key.clone(), window.to_owned());
                }
            }
            Taken::Invalid => {
                // Whoever writes such entries could else fill the log.
                if !std::mem::replace(&mut self.told_invalid, true) {
                    warn!(key = %entry.key, "an entry of the usage store is invalid: it is ignored");
                }
            }
        }
    }

    /// The counts of a key that goes stay, since counters only grow: its lease has ended, long after
    /// its window, or somebody has deleted it.
    fn deleted(&mut self, key: &Key) {
        self.live.remove(key);
        match self.group.parse(key) {
            Some(UsageKey::Frontend(frontend)) => {
                if frontend == self.frontend {
                    self.lost.store(true, Ordering::Relaxed);
                }
                self.tally.left(frontend);
            }
            Some(UsageKey::Counts { frontend, .. }) if frontend == self.frontend => {
                self.lost.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Tells all sums again, since a window may have begun for our clock only now, and forgets windows.
    fn look_after(&mut self) {
        let counted = self.counting.counted();
        let (tally, live) = (&mut self.tally, &self.live);
        tally.retain(|window| {
            counted.iter().any(|one| one.window == window) || live.values().any(|one| one == window)
        });
        self.warned.retain(|window| tally.frontends(window) > 0);
        for WindowCounts { window, .. } in &counted {
            self.tell(window);
            let dead = self.tally.dead(window);
            if dead > MANY_DEAD && self.warned.insert(window.clone()) {
                warn!(%window, dead, "many frontends that have ended have counted in one window");
            }
        }
    }

    fn tell(&self, window: &str) {
        let sums = self.tally.sums_without(window, &self.frontend);
        if !sums.is_empty() {
            self.counting.others_counted(window, &sums);
        }
    }
}
