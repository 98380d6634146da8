//! Frontends that count together while days and months end, over a store in memory.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_discovery::{
    CounterStore, MemoryStore, NetworkPrefix, UsageGroup, UsageSharing, UsageTally, WatchStore as _,
};
use dynamo_namespace::NamespaceScope;
use fastrand::Rng;
use futures_util::stream::pending;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::access::budget::{Counted, Span, TokenLimits};
use crate::access::hash::KeyHash;
use crate::access::limit::Permit;
use crate::access::list::{ApiKey, Credential, KeyHashes, KeyList};
use crate::access::window::Clock;
use crate::feed::{Feed, Source};
use crate::meter::Spent;
use crate::view::Switchboard;

/// 2028-02-28T23:57:00Z: the day ends soon, and the month a day later.
const BEGIN: u64 = 1_835_395_020;
const DAY: u64 = 86_400;
/// More than is ever used, so that every request is admitted.
const LIMIT: u64 = 1_000_000;

/// What was used, by the name of the window.
type Used = BTreeMap<String, [u64; 2]>;

/// A frontend of the group.
struct Frontend {
    keys: ApiKeys,
    wall: &'static AtomicU64,
    /// How far its clock is ahead, in seconds.
    ahead: u64,
    /// Requests that have not ended, each with the windows in which it began.
    under_way: Vec<(Permit, [Window; 2])>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn group() -> UsageGroup {
    UsageGroup::new(&NetworkPrefix::default(), &"all".parse().unwrap())
}

/// The list in which the key has its hashes of two generations.
fn list(generation: usize) -> KeyList {
    let hash = |n: usize| KeyHash::of(&format!("a-key-that-nobody-could-guess-{n}")).unwrap();
    let hashes = KeyHashes::new([hash(generation), hash(generation + 1)]).unwrap();
    let mut key = ApiKey::new("k".parse().unwrap(), Credential::Key(hashes), NamespaceScope::All);
    for span in [Span::Day, Span::Month] {
        key.tokens = key.tokens.with(Counted::All, span, NonZeroU64::new(LIMIT).unwrap());
    }
    KeyList::new([key], &NamespaceScope::All).unwrap()
}

impl Frontend {
    async fn start(store: &MemoryStore, ahead: u64, generation: usize, now: u64) -> Self {
        let wall: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(now + ahead)));
        let (_, writer) = Switchboard::new([NamespaceScope::All]);
        let feed = Feed::new(writer, [Source::new("none", Box::pin(pending()))]);
        let keys = ApiKeys::with_clock(feed.scopes(), Clock::set_by(wall));
        tokio::spawn(feed.run());
        keys.replace(&list(generation)).await.unwrap();
        let store: Arc<dyn CounterStore> = Arc::new(store.clone());
        let sharing = UsageSharing::new(store, group(), Arc::new(keys.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(sharing.run(async {
            let _ = stopped.await;
        }));
        Self { keys, wall, ahead, under_way: Vec::new(), stop, task }
    }

    fn windows(&self) -> [Window; 2] {
        let now = self.keys.inner.clock.now();
        Calendar::ALL.map(|calendar| calendar.at(now.wall))
    }

    fn begin(&mut self, estimate: Amount) {
        let tenant = self.keys.tenants().remove(0);
        let mut permit = tenant.begin().unwrap();
        tenant.reserve(&mut permit, estimate).unwrap();
        self.under_way.push((permit, self.windows()));
    }

    /// Ends a request, which counts in the windows in which it began.
    fn end(&mut self, at: usize, [input, output]: [u64; 2], used: &mut Used) {
        let (mut permit, windows) = self.under_way.swap_remove(at);
        permit.settle(Some(Spent { input, output, estimated: false }));
        for window in windows {
            let sum = used.entry(window.to_string()).or_default();
            *sum = [sum[0] + input, sum[1] + output];
        }
    }

    /// Ends in order: its last counts are written.
    async fn stop(mut self, used: &mut Used) {
        while !self.under_way.is_empty() {
            self.end(0, [3, 4], used);
        }
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// What counts against the limits of the windows of its clock, by the name of the window.
    fn taken(&self) -> [(String, u64); 2] {
        let tenant = self.keys.tenants().remove(0);
        let limits: TokenLimits = tenant.tokens;
        let shares = tenant.usage.ledger.shares(&limits, self.keys.inner.clock.now());
        let mut shares: Vec<_> = shares.collect();
        shares.sort_by_key(|(limit, _)| limit.span);
        let windows = self.windows();
        [0, 1].map(|at| (windows[at].to_string(), LIMIT - shares[at].1.remaining))
    }
}

async fn stored(store: &MemoryStore) -> UsageTally {
    UsageTally::of(&group(), &store.list(&group().range()).await.unwrap().entries)
}

/// One schedule: requests of two frontends that begin and end on both sides of the ends of a day and
/// of a month, while frontends restart and the key rotates.
async fn schedule(seed: u64) {
    let (mut random, store) = (Rng::with_seed(seed), MemoryStore::new());
    let (mut now, mut generation, mut used) = (BEGIN, 0, Used::new());
    let mut frontends = Vec::new();
    for ahead in [0, random.u64(0..30)] {
        frontends.push(Frontend::start(&store, ahead, generation, now).await);
    }
    let mut before = BTreeMap::<String, [u64; 2]>::new();
    for step in 0..80 {
        let pause = random.u64(1..20);
        sleep(Duration::from_secs(pause)).await;
        // Half of the steps are around the end of the day, half around that of the month. Nothing
        // happens between them, so only the clocks on the wall see that time.
        now += if step == 40 { DAY - 400 } else { pause };
        for one in &frontends {
            one.wall.store(now + one.ahead, Ordering::Relaxed);
        }
        let at = random.usize(0..frontends.len());
        match random.u8(0..12) {
            0 => {
                let old = frontends.swap_remove(at);
                let ahead = old.ahead;
                old.stop(&mut used).await;
                frontends.push(Frontend::start(&store, ahead, generation, now).await);
            }
            1 => {
                generation += 1;
                for one in &frontends {
                    one.keys.replace(&list(generation)).await.unwrap();
                }
            }
            2..6 => {
                let count = frontends[at].under_way.len();
                if count > 0 {
                    let spent = [random.u64(0..50), random.u64(0..50)];
                    frontends[at].end(random.usize(0..count), spent, &mut used);
                }
            }
            _ => {
                let estimate = Amount { input: random.u64(0..50), output: random.u64(0..50) };
                frontends[at].begin(estimate);
            }
        }
        let tally = stored(&store).await;
        for window in tally.windows() {
            let sum = tally.sums(window)["k"];
            let last = before.insert(window.to_owned(), sum).unwrap_or_default();
            let all = used.get(window).copied().unwrap_or_default();
            for side in [0, 1] {
                assert!(last[side] <= sum[side], "seed {seed}: {window} shrank");
                assert!(sum[side] <= all[side], "seed {seed}: {window} has something twice");
            }
        }
        for one in &frontends {
            for (window, taken) in one.taken() {
                // What is under way takes its estimate, at most 98 tokens for each request.
                let reserved = 98 * one.under_way.len() as u64;
                let all: u64 = used.get(&window).into_iter().flatten().sum();
                assert!(taken <= all + reserved, "seed {seed}: {window} of another window");
            }
        }
    }
    for one in &mut frontends {
        while !one.under_way.is_empty() {
            one.end(0, [5, 6], &mut used);
        }
    }
    // Everyone has written, and everyone has read.
    sleep(Duration::from_secs(60)).await;
    let tally = stored(&store).await;
    for (window, all) in &used {
        if *all != [0, 0] {
            assert_eq!(tally.sums(window)["k"], *all, "seed {seed}: {window}");
        }
    }
    for one in &frontends {
        for (window, taken) in one.taken() {
            let all: u64 = used.get(&window).into_iter().flatten().sum();
            assert_eq!(taken, all, "seed {seed}: {window}");
        }
    }
    for window in ["2028-02-28", "2028-02-29", "2028-03-01", "2028-02", "2028-03"] {
        assert!(used.contains_key(window), "seed {seed}: nothing was used in {window}");
    }
}

#[tokio::test(start_paused = true)]
async fn windows_that_end_while_frontends_count_neither_leak_nor_lose_nor_count_twice() {
    for seed in 0..40 {
        schedule(seed).await;
    }
}
