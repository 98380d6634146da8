//! Tests of the state machine, in paused time, over stores that follow a script.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::stream;
use mockall::{Sequence, predicate};

use super::*;
use crate::store::MockWatchStore;

type Item = Result<WatchItem, StoreError>;

/// What the scripted store does for one call.
enum Step {
    List(Result<Snapshot, StoreError>),
    /// Checks the cursor's revision, then plays the items; then ends, or stays silent.
    Watch(u64, Result<(Vec<Item>, End), StoreError>),
}

enum End {
    Ends,
    Silent,
}

fn entry(key: &str, revision: u64) -> Entry {
    Entry { key: key.into(), value: "v".into(), mod_revision: Revision(revision), lease: None }
}

fn list(revision: u64, keys: &[(&str, u64)]) -> Step {
    let entries = keys.iter().map(|(key, revision)| entry(key, *revision)).collect();
    Step::List(Ok(Snapshot { revision: Revision(revision), entries }))
}

fn put(key: &str, revision: u64) -> Item {
    let changes = vec![Change::Put(entry(key, revision))];
    Ok(WatchItem::Batch { revision: Revision(revision), changes })
}

fn down() -> StoreError {
    StoreError::Unavailable("no route".into())
}

/// A watcher over a store that expects exactly these calls, in this order.
fn scripted(steps: impl IntoIterator<Item = Step>) -> StoreWatcher {
    let mut store = MockWatchStore::new();
    let mut sequence = Sequence::new();
    for step in steps {
        match step {
            Step::List(result) => {
                store.expect_list().once().in_sequence(&mut sequence).return_once(|_| result);
            }
            Step::Watch(after, result) => {
                let after = Revision(after);
                let result = result.map(|(items, end)| {
                    let items = stream::iter(items);
                    match end {
                        End::Ends => items.boxed(),
                        End::Silent => items.chain(stream::pending()).boxed(),
                    }
                });
                let result = Mutex::new(Some(result));
                store
                    .expect_watch()
                    .with(
                        predicate::always(),
                        predicate::function(move |cursor: &Cursor| cursor.revision == after),
                    )
                    .once()
                    .in_sequence(&mut sequence)
                    .return_once(move |_, _| result.lock().unwrap().take().unwrap());
            }
        }
    }
    StoreWatcher::new(Arc::new(store), KeyRange::prefix("models/"), Timing::default())
}

/// The signals as short words, as many as are asked for; those of a list are one.
async fn signals(watcher: &mut StoreWatcher, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    while words.len() < count {
        words.push(match watcher.next().await {
            Signal::Listing | Signal::Page(_) => continue,
            Signal::Listed { revision, .. } => format!("list@{revision}"),
            Signal::Batch { revision, .. } => format!("batch@{revision}"),
            Signal::Up => "up".into(),
            Signal::Down(error) => format!("down: {error}"),
        });
    }
    words
}

const UNAVAILABLE: &str = "down: the store is unavailable";

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_resumed_after_the_last_delivered_revision() {
    let mut watcher = scripted([
        list(5, &[("models/a", 5)]),
        Step::Watch(5, Ok((vec![put("models/b", 7)], End::Ends))),
        Step::Watch(7, Ok((vec![put("models/c", 8)], End::Silent))),
    ]);
    assert_eq!(
        signals(&mut watcher, 6).await,
        ["list@5", "up", "batch@7", UNAVAILABLE, "up", "batch@8"]
    );
}

/// A store whose lists are given, page by page.
struct Paged(Mutex<VecDeque<Vec<Result<Page, StoreError>>>>);

#[async_trait::async_trait]
impl WatchStore for Paged {
    async fn list(&self, _: &KeyRange) -> Result<Snapshot, StoreError> {
        Err(down())
    }

    async fn list_pages(&self, _: &KeyRange) -> Result<Listing, StoreError> {
        let pages = self.0.lock().unwrap().pop_front().ok_or_else(down)?;
        Ok(Listing { revision: Revision(5), pages: stream::iter(pages).boxed() })
    }

    async fn watch(
        &self,
        _: &KeyRange,
        _: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        Ok(stream::pending().boxed())
    }
}

fn page(key: &str, revision: u64, more: bool) -> Result<Page, StoreError> {
    Ok(Page { entries: vec![entry(key, revision)], more })
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_between_two_pages_is_told_once_and_begins_again() {
    let lists = [
        vec![page("models/a", 1, true), Err(StoreError::Compacted)],
        vec![page("models/a", 1, true), Err(down())],
        vec![page("models/a", 1, true)],
        vec![page("models/a", 4, true), page("models/b", 2, true), page("models/c", 3, false)],
    ];
    let store = Arc::new(Paged(Mutex::new(lists.into())));
    let mut watcher = StoreWatcher::new(store, KeyRange::prefix(""), Timing::default());
    let mut words = Vec::new();
    while watcher.link != Link::Up {
        words.push(match watcher.next().await {
            Signal::Listing => "begins".to_owned(),
            Signal::Page(entries) => entries[0].key.to_string(),
            Signal::Listed { revision, entries } => format!("{}@{revision}", entries[0].key),
            Signal::Down(error) => format!("down: {error}"),
            other => format!("{other:?}"),
        });
    }
    let compacted = "down: the store has compacted the requested revision";
    let tries: [&[&str]; 4] = [
        &["begins", "models/a", compacted],
        &["begins", "models/a"],
        &["begins", "models/a"],
        &["begins", "models/a", "models/b", "models/c@5", "Up"],
    ];
    assert_eq!(words, tries.concat());
    assert_eq!(watcher.anchors.newest().unwrap().0, "models/a".into());
    assert_eq!(watcher.listed, 3);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_errors_is_said_once_and_tried_again_at_least_every_second() {
    let refused = || Step::List(Err(down()));
    let mut watcher = scripted((0..20).map(|_| refused()).chain([
        list(3, &[]),
        Step::Watch(3, Ok((vec![], End::Silent))),
        list(3, &[]),
    ]));
    let start = Instant::now();
    assert_eq!(signals(&mut watcher, 3).await, [UNAVAILABLE, "list@3", "up"]);
    assert!(start.elapsed() <= Duration::from_secs(20));
    assert!(start.elapsed() >= Duration::from_secs(5), "tried without waiting");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_and_denies_access_is_told_apart_from_one_that_is_away() {
    let away = || Step::List(Err(down()));
    let denied = || Step::List(Err(StoreError::Denied("no role".into())));
    let mut watcher = scripted([away(), away(), denied(), denied(), away(), list(3, &[])]);
    let denied = "down: the store denied access";
    assert_eq!(signals(&mut watcher, 4).await, [UNAVAILABLE, denied, UNAVAILABLE, "list@3"]);
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_and_signs_of_life_are_not_silence() {
    let alive = || Ok(WatchItem::Alive);
    let breathing = stream::unfold(0, |beats| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        (beats < 4).then_some((Ok(WatchItem::Alive), beats + 1))
    });
    let mut store = MockWatchStore::new();
    store.expect_list().once().return_once(|_| {
        Ok(Snapshot { revision: Revision(5), entries: vec![entry("models/a", 5)] })
    });
    let streams = Mutex::new(vec![
        stream::iter([alive()]).chain(stream::pending()).boxed(),
        breathing.chain(stream::pending()).boxed(),
    ]);
    store.expect_watch().returning(move |_, _| Ok(streams.lock().unwrap().pop().unwrap()));
    let mut watcher =
        StoreWatcher::new(Arc::new(store), KeyRange::prefix("models/"), Timing::default());

    assert_eq!(signals(&mut watcher, 2).await, ["list@5", "up"]);
    let start = Instant::now();
    assert_eq!(signals(&mut watcher, 1).await, [UNAVAILABLE]);
    // Four beats of 5 s, then the silence of 7 s.
    assert_eq!(start.elapsed().as_secs(), 27);
    assert_eq!(signals(&mut watcher, 1).await, ["up"]);
}

#[tokio::test(start_paused = true)]
async fn a_compaction_at_the_call_lists_again_without_saying_that_the_store_is_gone() {
    let mut watcher = scripted([
        list(5, &[("models/a", 5)]),
        Step::Watch(5, Err(StoreError::Compacted)),
        list(9, &[("models/a", 9)]),
        Step::Watch(9, Ok((vec![], End::Silent))),
    ]);
    let start = Instant::now();
    assert_eq!(signals(&mut watcher, 3).await, ["list@5", "list@9", "up"]);
    assert!(start.elapsed() <= Timing::default().relist_spread);
}

#[tokio::test(start_paused = true)]
async fn a_compaction_in_mid_stream_lists_again() {
    let mut watcher = scripted([
        list(5, &[("models/a", 5)]),
        Step::Watch(5, Ok((vec![put("models/b", 6), Err(StoreError::Compacted)], End::Silent))),
        list(9, &[("models/a", 5)]),
        Step::Watch(9, Ok((vec![put("models/c", 10)], End::Silent))),
    ]);
    assert_eq!(signals(&mut watcher, 5).await, ["list@5", "up", "batch@6", "list@9", "batch@10"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_in_time_is_listed_again() {
    let mut watcher = scripted([
        list(100, &[("models/a", 90)]),
        Step::Watch(100, Ok((vec![], End::Ends))),
        Step::Watch(100, Err(StoreError::Replaced)),
        list(2, &[("models/a", 2)]),
        Step::Watch(2, Ok((vec![put("models/b", 3)], End::Silent))),
    ]);
    assert_eq!(
        signals(&mut watcher, 6).await,
        ["list@100", "up", UNAVAILABLE, "list@2", "up", "batch@3"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_replaced_and_is_ahead_is_listed_again() {
    let mut watcher = scripted([
        list(5, &[("models/a", 5)]),
        Step::Watch(5, Ok((vec![Err(StoreError::Replaced)], End::Silent))),
        list(500, &[("models/z", 400)]),
        Step::Watch(500, Ok((vec![put("models/z", 501)], End::Silent))),
    ]);
    assert_eq!(signals(&mut watcher, 4).await, ["list@5", "up", "list@500", "batch@501"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_key_to_prove_the_history_by_a_resume_is_a_list() {
    let delete = Change::Delete("models/a".into());
    let emptied = Ok(WatchItem::Batch { revision: Revision(6), changes: vec![delete] });
    let mut watcher = scripted([
        list(5, &[("models/a", 5)]),
        Step::Watch(5, Ok((vec![emptied], End::Ends))),
        list(6, &[]),
        Step::Watch(6, Ok((vec![], End::Silent))),
        list(6, &[]),
    ]);
    assert_eq!(
        signals(&mut watcher, 6).await,
        ["list@5", "up", "batch@6", UNAVAILABLE, "list@6", "up"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_replaced_right_after_an_empty_list_hides_nothing() {
    let mut watcher = scripted([
        list(5, &[]),
        // Another store, which has passed revision 5.
        Step::Watch(5, Ok((vec![], End::Silent))),
        list(7, &[("models/a", 3)]),
        Step::Watch(7, Ok((vec![put("models/b", 8)], End::Silent))),
    ]);
    assert_eq!(signals(&mut watcher, 4).await, ["list@5", "list@7", "up", "batch@8"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_after_the_last_one_is_dropped() {
    let mut watcher = scripted([
        list(5, &[("models/a", 5)]),
        Step::Watch(
            5,
            Ok((vec![put("models/b", 5), put("models/b", 6), put("models/c", 6)], End::Silent)),
        ),
        Step::Watch(6, Ok((vec![], End::Silent))),
    ]);
    assert_eq!(signals(&mut watcher, 4).await, ["list@5", "up", "batch@6", UNAVAILABLE]);
    assert_eq!(signals(&mut watcher, 1).await, ["up"]);
}

#[tokio::test(start_paused = true)]
async fn waits_grow_while_watches_break_early_and_begin_again_after_a_sustained_one() {
    let mut watcher = scripted([]);
    for _ in 0..10 {
        watcher.backoff.wait();
    }
    let long = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Some((Ok(WatchItem::Alive), ()))
    });
    let now = Instant::now();
    watcher.phase = Phase::Watch { stream: long.boxed(), since: now, heard: now };
    watcher.step().await;
    assert!(watcher.backoff.clone().wait() >= Duration::from_millis(500), "5 s is not sustained");
    watcher.step().await;
    assert!(watcher.backoff.clone().wait() <= Duration::from_millis(50));
}
