//! Many watchers that lose their store at the same moment: none of them may come back in step.
//!
//! Fault 43 of `docs/testing.md`. Time is paused, so a second of the fleet's takes no time of ours.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dynamo_discovery::{
    Cursor, KeyRange, MemoryStore, ModelWatcher, Snapshot, StoreError, WatchItem, WatchStore,
};
use futures_util::stream::BoxStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const FLEET: usize = 500;

/// A store that notes when it was asked for what, and answered.
#[derive(Clone)]
struct Noted {
    store: MemoryStore,
    lists: Arc<Mutex<Vec<Instant>>>,
    watches: Arc<Mutex<Vec<Instant>>>,
}

#[async_trait]
impl WatchStore for Noted {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        let snapshot = self.store.list(range).await?;
        self.lists.lock().unwrap().push(Instant::now());
        Ok(snapshot)
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        let items = self.store.watch(range, after).await?;
        self.watches.lock().unwrap().push(Instant::now());
        Ok(items)
    }
}

/// The frontends of a cluster with this many entries, which have watched it for a while.
async fn fleet(entries: usize) -> (Noted, JoinSet<()>) {
    fastrand::seed(43);
    let store = MemoryStore::new();
    for number in 0..entries {
        // Of another namespace: to be listed, and not to be read.
        store.put_unleased(format!("models/team-b/backend/generate/{number:x}/m"), "{}");
    }
    let noted = Noted { store, lists: Arc::default(), watches: Arc::default() };
    let mut watchers = JoinSet::new();
    for _ in 0..FLEET {
        let mut watcher = ModelWatcher::watch(Arc::new(noted.clone()), Some("team-a")).unwrap();
        watchers.spawn(async move {
            loop {
                watcher.next().await;
            }
        });
    }
    sleep(Duration::from_secs(30)).await;
    assert_eq!(noted.store.open_watches(), FLEET);
    (noted, watchers)
}

/// When each of them came, after a moment; all of them came.
fn after(times: &Mutex<Vec<Instant>>, moment: Instant) -> Vec<Duration> {
    let mut times: Vec<_> =
        std::mem::take(&mut *times.lock().unwrap()).into_iter().map(|at| at - moment).collect();
    assert_eq!(times.len(), FLEET);
    times.sort_unstable();
    times
}

/// How many came within the same 100 ms, at most.
fn crowd(times: &[Duration]) -> usize {
    let within = |from: &Duration| {
        times
            .iter()
            .filter(|time| (*from..*from + Duration::from_millis(100)).contains(time))
            .count()
    };
    times.iter().map(within).max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_500_frontends_no_100_ms_see_more_than_a_fifth_reconnect() {
    let (noted, _watchers) = fleet(3).await;
    // The second break comes before any watch has proven itself.
    for pause in [30, 2, 30] {
        noted.watches.lock().unwrap().clear();
        let broken = Instant::now();
        noted.store.disconnect();
        sleep(Duration::from_secs(2)).await;
        let came = after(&noted.watches, broken);
        assert!(crowd(&came) <= FLEET / 5, "{} in 100 ms", crowd(&came));
        assert!(
            came[FLEET - 1] <= Duration::from_millis(1_900),
            "the last one came {:?}",
            came[FLEET - 1]
        );
        println!("reconnects: at most {} of {FLEET} in 100 ms", crowd(&came));
        sleep(Duration::from_secs(pause)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nor_do_they_come_together_to_a_store_that_was_away_for_long() {
    let (noted, _watchers) = fleet(3).await;
    noted.watches.lock().unwrap().clear();
    noted.store.set_available(false);
    noted.store.disconnect();
    sleep(Duration::from_secs(20)).await;
    noted.store.set_available(true);
    let back = Instant::now();
    sleep(Duration::from_secs(2)).await;
    let came = after(&noted.watches, back);
    assert!(crowd(&came) <= FLEET / 5, "{} in 100 ms", crowd(&came));
    assert!(came[FLEET - 1] <= Duration::from_secs(2), "the last one came {:?}", came[FLEET - 1]);
    println!("reconnects: at most {} of {FLEET} in 100 ms", crowd(&came));
}

/// Breaks all watches, and forgets what happened meanwhile.
async fn lose_history(noted: &Noted) -> Instant {
    noted.store.put_unleased("models/before", "{}");
    sleep(Duration::from_secs(1)).await;
    noted.lists.lock().unwrap().clear();
    noted.store.disconnect();
    noted.store.put_unleased("models/meanwhile", "{}");
    noted.store.compact();
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn of_500_frontends_that_list_a_large_store_again_not_all_do_so_within_3_s() {
    let (noted, _watchers) = fleet(3_000).await;
    let lost = lose_history(&noted).await;
    sleep(Duration::from_secs(8)).await;
    let came = after(&noted.lists, lost);
    let spread = came[FLEET - 1] - came[0];
    assert!(spread >= Duration::from_secs(3), "all of them in {spread:?}");
    assert!(came[FLEET - 1] <= Duration::from_secs(5), "the last one came {:?}", came[FLEET - 1]);
    println!("lists: spread over {spread:?}, at most {} of {FLEET} in 100 ms", crowd(&came));
}

#[tokio::test(start_paused = true)]
async fn who_lists_a_small_store_again_does_so_within_2_s() {
    let (noted, _watchers) = fleet(3).await;
    let lost = lose_history(&noted).await;
    sleep(Duration::from_secs(5)).await;
    let came = after(&noted.lists, lost);
    // A reconnection, and the wait before a list.
    assert!(came[FLEET - 1] <= Duration::from_secs(2), "{:?}", came[FLEET - 1]);
    println!("lists: the last one after {:?}", came[FLEET - 1]);
}
