//! List, then watch, for ever: the state machine above the storage trait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backoff::{Backoff, jitter};
use crate::store::{
    Change, Cursor, Entry, Key, KeyRange, Listing, Page, Revision, Snapshot, Stamp, StoreError,
    WatchItem, WatchStore,
};
use crate::timing::Timing;

/// What the store said, as the watcher hands it on.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A full list begins, maybe instead of one that broke.
    Listing,
    /// These are part of it, and there are more.
    Page(Vec<Entry>),
    /// These are the last of it, at this revision.
    Listed { revision: Revision, entries: Vec<Entry> },
    /// These changed.
    Batch { revision: Revision, changes: Vec<Change> },
    /// The watch runs.
    Up,
    /// It does not. Said once, and again when the store is there but denies access, or the other
    /// way round; what was known stands.
    Down(StoreError),
}

/// A watch of one range that survives its store.
pub(crate) struct StoreWatcher {
    store: Arc<dyn WatchStore>,
    range: KeyRange,
    timing: Timing,
    backoff: Backoff,
    phase: Phase,
    /// The last revision that was handed on.
    revision: Revision,
    anchors: Anchors,
    /// How many entries the last list had.
    listed: usize,
    link: Link,
}

enum Phase {
    List {
        at: Instant,
    },
    Listing {
        listing: Listing,
        deadline: Instant,
        anchors: Anchors,
        /// How many entries there were so far.
        count: usize,
    },
    Resume {
        at: Instant,
        /// Right after a list, whose revision needs no anchor.
        listed: bool,
    },
    Watch {
        stream: BoxStream<'static, Result<WatchItem, StoreError>>,
        since: Instant,
        heard: Instant,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Untried,
    Up,
    Down { denied: bool },
}

impl StoreWatcher {
    pub(crate) fn new(store: Arc<dyn WatchStore>, range: KeyRange, timing: Timing) -> Self {
        Self {
            store,
            range,
            backoff: Backoff::new(timing.first_retry, timing.longest_retry),
            phase: Phase::List { at: Instant::now() },
            revision: Revision::default(),
            anchors: Anchors::default(),
            listed: 0,
            link: Link::Untried,
            timing,
        }
    }

    /// The next signal. Never ends; may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Signal {
        loop {
            if let Some(signal) = self.step().await {
                return signal;
            }
        }
    }

    async fn step(&mut self) -> Option<Signal> {
        match &mut self.phase {
            Phase::List { at } => {
                sleep_until(*at).await;
                let deadline = Instant::now() + self.timing.list;
                match timeout_at(deadline, self.store.list_pages(&self.range)).await {
                    Ok(Ok(listing)) => {
                        self.phase = Phase::listing(listing, deadline);
                        Some(Signal::Listing)
                    }
                    Ok(Err(error)) => self.list_later(error),
                    Err(_) => self.list_later(silent("the list took too long")),
                }
            }
            Phase::Listing { listing, deadline, anchors, count } => {
                match timeout_at(*deadline, listing.pages.next()).await {
                    Ok(Some(Ok(Page { entries, more }))) => {
                        *count += entries.len();
                        anchors.take_in(&entries);
                        if more {
                            return Some(Signal::Page(entries));
                        }
                        let revision = listing.revision;
                        self.revision = revision;
                        self.anchors = std::mem::take(anchors);
                        self.listed = *count;
                        self.phase = Phase::Resume { at: Instant::now(), listed: true };
                        Some(Signal::Listed { revision, entries })
                    }
                    Ok(Some(Err(error))) => self.list_later(error),
                    Ok(None) => self.list_later(silent("the list ended early")),
                    Err(_) => self.list_later(silent("the list took too long")),
                }
            }
            Phase::Resume { at, listed: false } if self.anchors.is_empty() => {
                // Nothing could prove that the history is still ours.
                self.phase = Phase::List { at: *at };
                None
            }
            Phase::Resume { at, .. } => {
                sleep_until(*at).await;
                let cursor = Cursor { revision: self.revision, anchor: self.anchors.newest() };
                let deadline = Instant::now() + self.timing.silence;
                match timeout_at(deadline, self.store.watch(&self.range, &cursor)).await {
                    Ok(Ok(stream)) => {
                        if cursor.anchor.is_none() {
                            // An empty store has nothing to prove its history by, and could have
                            // been replaced since the list by one that has passed our revision.
                            match self.list().await {
                                Ok(again) if again.entries.is_empty() => {
                                    self.revision = again.revision;
                                }
                                Ok(again) => {
                                    self.phase = Phase::listing(again.into(), Instant::now());
                                    return Some(Signal::Listing);
                                }
                                Err(error) => return self.list_later(error),
                            }
                        }
                        let now = Instant::now();
                        self.phase = Phase::Watch { stream, since: now, heard: now };
                        self.up()
                    }
                    Ok(Err(error)) => self.failed(error),
                    Err(_) => self.failed(silent("the watch did not begin")),
                }
            }
            Phase::Watch { stream, since, heard } => {
                let item = match timeout_at(*heard + self.timing.silence, stream.next()).await {
                    Ok(Some(Ok(item))) => item,
                    Ok(Some(Err(error))) => return self.failed(error),
                    Ok(None) => return self.failed(silent("the watch ended")),
                    Err(_) => return self.failed(silent("the watch fell silent")),
                };
                *heard = Instant::now();
                if heard.duration_since(*since) >= self.timing.sustained {
                    self.backoff.reset();
                }
                match item {
                    WatchItem::Alive => None,
                    // A store that repeats itself must not take us back.
                    WatchItem::Batch { revision, .. } if revision <= self.revision => None,
                    WatchItem::Batch { revision, changes } => {
                        self.revision = revision;
                        self.anchors.follow(&changes);
                        Some(Signal::Batch { revision, changes })
                    }
                }
            }
        }
    }

    async fn list(&mut self) -> Result<Snapshot, StoreError> {
        let deadline = Instant::now() + self.timing.list;
        let listed = timeout_at(deadline, self.store.list(&self.range)).await;
        listed.unwrap_or_else(|_| Err(silent("the list took too long")))
    }

    /// The watch failed: resume, or list where the history is lost.
    fn failed(&mut self, error: StoreError) -> Option<Signal> {
        let now = Instant::now();
        if matches!(error, StoreError::Compacted | StoreError::Replaced) {
            tracing::info!(cause = %error, "listing again");
            self.phase = Phase::List { at: now + jitter(self.relist_spread()) };
            return None;
        }
        let mut wait = self.backoff.wait();
        if matches!(self.phase, Phase::Watch { .. }) {
            // Till now the fleet was in step.
            wait += jitter(self.timing.reconnect_spread);
        }
        self.phase = Phase::Resume { at: now + wait, listed: false };
        self.down(error)
    }

    fn list_later(&mut self, error: StoreError) -> Option<Signal> {
        self.phase = Phase::List { at: Instant::now() + self.backoff.wait() };
        self.down(error)
    }

    /// The more there is to list, the longer the fleet takes over it.
    fn relist_spread(&self) -> Duration {
        let Timing { relist_spread, longest_relist_spread, .. } = self.timing;
        let for_entries = Duration::from_millis(self.listed as u64);
        (relist_spread + for_entries).min(longest_relist_spread.max(relist_spread))
    }

    fn up(&mut self) -> Option<Signal> {
        (std::mem::replace(&mut self.link, Link::Up) != Link::Up).then_some(Signal::Up)
    }

    fn down(&mut self, error: StoreError) -> Option<Signal> {
        let link = Link::Down { denied: matches!(error, StoreError::Denied(_)) };
        (std::mem::replace(&mut self.link, link) != link).then_some(Signal::Down(error))
    }
}

impl Phase {
    fn listing(listing: Listing, deadline: Instant) -> Self {
        Self::Listing { listing, deadline, anchors: Anchors::default(), count: 0 }
    }
}

fn silent(what: &'static str) -> StoreError {
    StoreError::Unavailable(what.into())
}

/// The live keys that were written last, with what wrote them.
///
/// They prove a history: a store that was restored from a backup still has its old keys, but not
/// the latest. A few, so that a deletion does not leave us without.
#[derive(Default)]
struct Anchors(VecDeque<(Key, Stamp)>);

impl Anchors {
    const KEPT: usize = 16;

    /// Takes in a page of a list.
    fn take_in(&mut self, page: &[Entry]) {
        let mut newest: Vec<&Entry> = page.iter().collect();
        let newest_first = |entry: &&Entry| std::cmp::Reverse(entry.mod_revision);
        if newest.len() > Self::KEPT {
            newest.select_nth_unstable_by_key(Self::KEPT, newest_first);
            newest.truncate(Self::KEPT);
        }
        self.0.extend(newest.into_iter().map(|entry| (entry.key.clone(), entry.stamp())));
        let newest_first = |(_, stamp): &(Key, Stamp)| std::cmp::Reverse(stamp.revision);
        self.0.make_contiguous().sort_unstable_by_key(newest_first);
        self.0.truncate(Self::KEPT);
    }

    fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            let key = match change {
                Change::Put(entry) => &entry.key,
                Change::Delete(key) => key,
            };
            self.0.retain(|(anchor, _)| anchor != key);
            if let Change::Put(entry) = change {
                self.0.truncate(Self::KEPT - 1);
                self.0.push_front((entry.key.clone(), entry.stamp()));
            }
        }
    }

    fn newest(&self) -> Option<(Key, Stamp)> {
        self.0.front().cloned()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            signals(&mut watcher, 5).await,
            ["list@5", "up", "batch@6", "list@9", "batch@10"]
        );
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
        assert!(
            watcher.backoff.clone().wait() >= Duration::from_millis(500),
            "5 s is not sustained"
        );
        watcher.step().await;
        assert!(watcher.backoff.clone().wait() <= Duration::from_millis(50));
    }

    #[test]
    fn the_anchor_is_the_live_key_that_was_written_last() {
        let stamp = |revision| Stamp { revision: Revision(revision), lease: None };
        let mut anchors = Anchors::default();
        let entries: Vec<_> = (1..=40).map(|n| entry(&format!("models/{n}"), 100 - n)).collect();
        for page in [&entries[20..], &entries[..20]] {
            anchors.take_in(page);
        }
        assert_eq!(anchors.newest(), Some(("models/1".into(), stamp(99))));
        anchors.follow(&[Change::Delete("models/1".into())]);
        assert_eq!(anchors.newest(), Some(("models/2".into(), stamp(98))));
        anchors.follow(&[Change::Put(entry("models/30", 101))]);
        assert_eq!(anchors.newest(), Some(("models/30".into(), stamp(101))));
        for n in 1..=40 {
            anchors.follow(&[Change::Delete(format!("models/{n}").into())]);
        }
        assert!(anchors.is_empty());
    }
}
