//! Frontends that count together, over a store in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

use super::part::{Division, LONGEST, decode, encode};
use super::*;
use crate::counter_store::CounterStore;
use crate::memory::MemoryStore;
use crate::network_prefix::NetworkPrefix;
use crate::store::*;

const DAY: &str = "2026-11-30";
const MONTH: &str = "2026-11";

fn group() -> UsageGroup {
    UsageGroup::new(&NetworkPrefix::default(), &"team-a".parse().unwrap())
}

/// A frontend that counts by hand.
#[derive(Default)]
struct Hand {
    /// Whether its windows ended so long ago that the store keeps no counts of them.
    is_over: AtomicBool,
    own: Mutex<BTreeMap<String, Counts>>,
    others: Mutex<BTreeMap<String, Counts>>,
}

impl Hand {
    fn count(&self, window: &str, key: &str, tokens: [u64; 2]) {
        let mut own = self.own.lock().unwrap();
        let count = own.entry(window.to_owned()).or_default().entry(key.to_owned()).or_default();
        *count = [0, 1].map(|at| count[at].saturating_add(tokens[at]));
    }

    fn others(&self, window: &str, key: &str) -> [u64; 2] {
        let others = self.others.lock().unwrap();
        others.get(window).and_then(|counts| counts.get(key)).copied().unwrap_or_default()
    }
}

impl Counting for Hand {
    fn counted(&self) -> Vec<WindowCounts> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ends = match self.is_over.load(Ordering::Relaxed) {
            false => now + Duration::from_secs(86_400),
            true => now - Duration::from_secs(2 * 86_400),
        };
        let own = self.own.lock().unwrap();
        let counts = |window: &str| own.get(window).cloned().unwrap_or_default();
        [DAY, MONTH]
            .map(|window| WindowCounts { window: window.into(), ends, counts: counts(window) })
            .into()
    }

    fn others_counted(&self, window: &str, sums: &Counts) {
        let mut others = self.others.lock().unwrap();
        if let Some(before) = others.insert(window.to_owned(), sums.clone()) {
            for (name, count) in before {
                let now = sums.get(&name).copied().unwrap_or_default();
                assert!(now[0] >= count[0] && now[1] >= count[1], "a sum shrank: {name}");
            }
        }
    }
}

/// A frontend that runs.
struct Running {
    hand: Arc<Hand>,
    status: Arc<UsageStatus>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(store: Arc<dyn CounterStore>) -> Self {
        let hand = Arc::new(Hand::default());
        let sharing = UsageSharing::new(store, group(), hand.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let status = sharing.status();
        let task = tokio::spawn(sharing.run(async {
            let _ = stopped.await;
        }));
        Self { hand, status, stop: Some(stop), task }
    }

    /// Ends without a last word, as a process that is killed.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn stop(mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.task.await.unwrap();
    }

    async fn until_others(&self, window: &str, key: &str, expected: [u64; 2]) {
        eventually(|| self.hand.others(window, key) == expected).await;
    }
}

/// Paused time goes on while everything waits.
async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it never held");
}

fn memory() -> (MemoryStore, Arc<dyn CounterStore>) {
    let store = MemoryStore::new();
    (store.clone(), Arc::new(store))
}

async fn keys(store: &MemoryStore) -> Vec<String> {
    let listed = store.list(&KeyRange::prefix("")).await.unwrap();
    listed.entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn each_frontend_learns_what_the_others_counted_and_never_its_own() {
    let (store, shared) = memory();
    let [a, b, c] = [(); 3].map(|()| Running::start(shared.clone()));
    a.hand.count(DAY, "team-a", [10, 1]);
    b.hand.count(DAY, "team-a", [20, 2]);
    b.hand.count(MONTH, "team-b", [5, 5]);
    c.until_others(DAY, "team-a", [30, 3]).await;
    a.until_others(DAY, "team-a", [20, 2]).await;
    a.until_others(MONTH, "team-b", [5, 5]).await;
    b.until_others(DAY, "team-a", [10, 1]).await;
    a.hand.count(DAY, "team-a", [1, 0]);
    b.until_others(DAY, "team-a", [11, 1]).await;
    eventually(|| a.status.frontends() == 3 && a.status.connected()).await;
    let keys = keys(&store).await;
    assert!(keys.iter().all(|key| key.starts_with("usage/team-a/")), "{keys:?}");
    let listed = store.list(&group().range()).await.unwrap();
    let tally = UsageTally::of(&group(), &listed.entries);
    assert_eq!(tally.sums(DAY)["team-a"], [31, 3]);
    assert_eq!((tally.frontends(DAY), tally.present()), (2, 3));
    assert_eq!(tally.windows().collect::<Vec<_>>(), [MONTH, DAY]);
}

#[tokio::test(start_paused = true)]
async fn a_frontend_that_ends_writes_its_last_counts_and_one_that_starts_reads_them() {
    let (store, shared) = memory();
    let a = Running::start(shared.clone());
    a.hand.count(DAY, "k", [7, 0]);
    a.stop().await;
    let present = |keys: Vec<String>| keys.iter().filter(|key| key.contains("/frontends/")).count();
    assert_eq!(present(keys(&store).await), 0);
    let b = Running::start(shared.clone());
    b.until_others(DAY, "k", [7, 0]).await;
    // One that is killed loses what it had not written, and its presence ends.
    b.hand.count(DAY, "k", [1, 0]);
    let c = Running::start(shared);
    c.until_others(DAY, "k", [8, 0]).await;
    b.kill().await;
    eventually(|| c.status.frontends() == 1).await;
    assert_eq!(c.hand.others(DAY, "k"), [8, 0], "the counts of the dead stay");
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_everyone_counts_alone_and_nothing_is_lost_or_twice() {
    let (store, shared) = memory();
    let (a, b) = (Running::start(shared.clone()), Running::start(shared));
    a.hand.count(DAY, "k", [1, 0]);
    b.until_others(DAY, "k", [1, 0]).await;
    store.set_available(false);
    store.disconnect();
    eventually(|| !a.status.connected() && a.status.failures() > 0).await;
    a.hand.count(DAY, "k", [10, 0]);
    b.hand.count(DAY, "k", [100, 0]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(b.hand.others(DAY, "k"), [1, 0]);
    store.set_available(true);
    a.until_others(DAY, "k", [100, 0]).await;
    b.until_others(DAY, "k", [11, 0]).await;
    eventually(|| a.status.frontends() == 2 && a.status.connected()).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_replaced_or_tidied_up_gets_all_counts_again() {
    let (store, shared) = memory();
    let (a, b) = (Running::start(shared.clone()), Running::start(shared.clone()));
    a.hand.count(DAY, "k", [3, 0]);
    b.until_others(DAY, "k", [3, 0]).await;
    store.replace();
    let c = Running::start(shared.clone());
    c.until_others(DAY, "k", [3, 0]).await;
    let counts: Vec<_> = keys(&store).await.into_iter().filter(|key| key.contains(DAY)).collect();
    for key in counts {
        store.delete(key.as_str());
    }
    let d = Running::start(shared);
    d.until_others(DAY, "k", [3, 0]).await;
    assert_eq!(b.hand.others(DAY, "k"), [3, 0], "it never shrank");
}

#[tokio::test(start_paused = true)]
async fn entries_that_no_frontend_writes_change_nothing() {
    let (store, shared) = memory();
    let a = Running::start(shared);
    for (key, value) in [
        ("2026-11-30/x", "{"),
        ("2026-11-30/x", r#"{"k":[1]}"#),
        ("2026-11-30/x", r#"{"k":[-1,0]}"#),
        ("2026-11-30/x", r#"{"":[1,1]}"#),
        ("2026-11-30", r#"{"k":[1,1]}"#),
        ("2026-11-30/x/y", r#"{"k":[1,1]}"#),
        ("2026-11-30/x/1/2", r#"{"k":[1,1]}"#),
        ("today/x", r#"{"k":[1,1]}"#),
        ("2026-11-30/ä", r#"{"k":[1,1]}"#),
    ] {
        store.put_unleased(format!("{}{key}", group()), value);
    }
    store.put_unleased(format!("{}2026-11-30/y", group()), vec![b' '; LONGEST + 1]);
    store.put_unleased("usage/team-b/2026-11-30/z", r#"{"k":[9,9]}"#);
    store.put_unleased(format!("{}2026-11-30/z", group()), r#"{"k":[18446744073709551615,2]}"#);
    a.until_others(DAY, "k", [u64::MAX, 2]).await;
    store.put_unleased(format!("{}2026-11-30/w/3", group()), r#"{"k":[7,2]}"#);
    a.until_others(DAY, "k", [u64::MAX, 4]).await;
}

/// A store whose puts may be answered with an error although they were done, and are done again
/// later.
struct Echoing {
    store: MemoryStore,
    puts: AtomicUsize,
    late: Mutex<Vec<Put>>,
}

type Put = (Key, Bytes, LeaseId, Option<Revision>);

#[async_trait]
impl CounterStore for Echoing {
    async fn put_if_unchanged(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>, StoreError> {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (key, value, lease, written) in late {
            // A duplicate of an older put.
            let _ = self.store.put_if_unchanged(&key, value, lease, written).await;
        }
        let put = self.store.put_if_unchanged(key, value.clone(), lease, written).await;
        self.late.lock().unwrap().push((key.clone(), value, lease, written));
        if self.puts.fetch_add(1, Ordering::Relaxed) % 3 == 1 {
            return Err(StoreError::Unavailable("the answer was lost".into()));
        }
        put
    }
}

#[async_trait]
impl WatchStore for Echoing {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        self.store.list(range).await
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        self.store.watch(range, after).await
    }
}

#[async_trait]
impl LeaseStore for Echoing {
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.store.renew(lease).await
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError> {
        self.store.put(key, value, lease).await
    }

    async fn put_if_leased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        self.store.put_if_leased(key, value, lease).await
    }

    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError> {
        self.store.delete_if_leased(key, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
}

#[tokio::test(start_paused = true)]
async fn puts_whose_answer_is_lost_and_that_come_again_late_never_shrink_a_count() {
    let (store, shared) = memory();
    let echoing =
        Echoing { store: store.clone(), puts: AtomicUsize::new(0), late: Mutex::default() };
    let a = Running::start(Arc::new(echoing));
    let b = Running::start(shared);
    // `others_counted` of `b` fails where a sum shrinks.
    for round in 1..=20 {
        a.hand.count(DAY, "k", [1, 2]);
        a.hand.count(MONTH, "k", [1, 2]);
        b.until_others(DAY, "k", [round, 2 * round]).await;
        b.until_others(MONTH, "k", [round, 2 * round]).await;
    }
    let listed = store.list(&group().range()).await.unwrap();
    assert_eq!(UsageTally::of(&group(), &listed.entries).sums(DAY)["k"], [20, 40]);
    assert!(a.status.failures() > 0);
}

#[tokio::test(start_paused = true)]
async fn counts_of_more_keys_than_one_value_holds_are_in_parts() {
    let (store, shared) = memory();
    let (a, b) = (Running::start(shared.clone()), Running::start(shared));
    for number in 0..2000_u64 {
        a.hand.count(DAY, &format!("a-key-with-a-rather-long-name-{number:04}"), [number, 1]);
    }
    b.until_others(DAY, "a-key-with-a-rather-long-name-1999", [1999, 1]).await;
    let listed = store.list(&group().range()).await.unwrap();
    let parts: Vec<_> =
        listed.entries.iter().filter(|entry| entry.key.to_string().contains(DAY)).collect();
    assert!(parts.len() > 1);
    assert!(parts.iter().all(|entry| entry.value.len() <= LONGEST));
    let before: Vec<_> = parts.iter().map(|entry| entry.mod_revision).collect();
    a.hand.count(DAY, "a-key-with-a-rather-long-name-1999", [1, 0]);
    b.until_others(DAY, "a-key-with-a-rather-long-name-1999", [2000, 1]).await;
    let listed = store.list(&group().range()).await.unwrap();
    let after = listed.entries.iter().filter(|entry| entry.key.to_string().contains(DAY));
    let changed = after.zip(before).filter(|(entry, before)| entry.mod_revision != *before).count();
    assert_eq!(changed, 1, "only the part that changed is written");
    let sums = UsageTally::of(&group(), &listed.entries).sums(DAY);
    assert_eq!(sums.len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn counts_end_two_days_after_their_window_and_are_kept_by_no_renewal() {
    let (store, shared) = memory();
    let a = Running::start(shared);
    a.hand.count(DAY, "k", [1, 1]);
    let mut seen = false;
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        seen |= keys(&store).await.iter().any(|key| key.contains(DAY));
    }
    assert!(seen);
    a.kill().await;
    // The window of a hand ends a day after the write.
    sleep(Duration::from_secs(3 * 86_400 - 300)).await;
    assert!(keys(&store).await.iter().any(|key| key.contains(DAY)));
    sleep(Duration::from_secs(400)).await;
    assert_eq!(keys(&store).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn counts_that_the_store_has_forgotten_are_not_written_again() {
    let (store, shared) = memory();
    let a = Running::start(shared);
    a.hand.is_over.store(true, Ordering::Relaxed);
    a.hand.count(DAY, "k", [1, 1]);
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        assert!(!keys(&store).await.iter().any(|key| key.contains(DAY)));
    }
}

#[test]
fn the_keys_of_a_group_lie_beside_the_models() {
    for (models, expected) in [
        ("models/", "usage/g/"),
        ("staging/models/", "staging/usage/g/"),
        ("other/", "other/usage/g/"),
    ] {
        let group = UsageGroup::new(&models.parse().unwrap(), &"g".parse().unwrap());
        assert_eq!(group.to_string(), expected);
        let models: NetworkPrefix = models.parse().unwrap();
        if models.as_str().ends_with("models/") {
            assert!(!models.range().contains(&group.presence("f")));
        }
        let key = group.counts(DAY, "f", 2);
        assert_eq!(group.parse(&key), Some(UsageKey::Counts { window: DAY, frontend: "f" }));
        assert_eq!(group.parse(&group.presence("f")), Some(UsageKey::Frontend("f")));
    }
    for name in ["", ".", "..", "a/b", "a b", "ä"] {
        assert!(name.parse::<GroupName>().is_err(), "{name:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_and_fits(
        counts in proptest::collection::btree_map("[a-zA-Z0-9._\"\\\\\u{1}-]{1,20}", any::<[u64; 2]>(), 0..900),
    ) {
        let mut division = Division::default();
        let parts = division.divide(&counts);
        let mut together = Counts::new();
        for part in &parts {
            let value = encode(part);
            prop_assert!(value.len() <= LONGEST);
            prop_assert_eq!(&decode(&value).unwrap(), part);
            together.extend(part.clone());
        }
        prop_assert_eq!(together, counts.clone());
        prop_assert_eq!(division.divide(&counts), parts);
    }

    /// Whatever order entries of all ages come in, each counter has its greatest value.
    #[test]
    fn the_order_in_which_values_are_seen_does_not_matter(
        values in proptest::collection::vec((0_usize..3, 0_u64..1000, 0_u64..1000), 1..30),
    ) {
        let mut tally = UsageTally::default();
        let mut greatest = [[0_u64; 2]; 3];
        for (frontend, input, output) in values {
            let value = encode(&Counts::from([("k".to_owned(), [input, output])]));
            let key = group().counts(DAY, ["a", "b", "c"][frontend], 0);
            let entry = Entry { key, value, mod_revision: Revision(1), lease: None };
            tally.take(&group(), &entry);
            let known = &mut greatest[frontend];
            *known = [known[0].max(input), known[1].max(output)];
            let sum = |at: usize| greatest.iter().map(|one| one[at]).sum::<u64>();
            prop_assert_eq!(tally.sums(DAY)["k"], [sum(0), sum(1)]);
        }
    }
}
