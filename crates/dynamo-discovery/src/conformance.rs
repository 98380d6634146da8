//! What every backend must do, as tests that each backend runs against itself.
//!
//! A backend implements [`Backend`], and [`Compacts`] where its history can be compacted, and has
//! one macro write its tests, each named as the sentence that it proves:
//!
//! ```
//! # use std::sync::Arc;
//! # use dynamo_discovery::{LeaseStore, MemoryStore, WatchStore, conformance::Backend};
//! struct Memory(MemoryStore);
//!
//! impl Backend for Memory {
//!     fn watch_store(&self) -> Arc<dyn WatchStore> {
//!         Arc::new(self.0.clone())
//!     }
//!     fn lease_store(&self) -> Arc<dyn LeaseStore> {
//!         Arc::new(self.0.clone())
//!     }
//!     fn root(&self) -> &str {
//!         "conformance/"
//!     }
//! }
//!
//! dynamo_discovery::conformance_tests!(
//!     #[tokio::test(start_paused = true)]
//!     Memory(MemoryStore::new())
//! );
//! ```
//!
//! A case panics where the backend breaks the contract. It waits for events with a deadline on
//! tokio's clock, real or paused, and needs no more time than the contract itself gives.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt as _};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::store::{
    Change, Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, Listing, Revision, Snapshot,
    Stamp, StoreError, WatchItem, WatchStore,
};

/// A store under test.
pub trait Backend: Send + Sync {
    /// The store, as a frontend sees it.
    fn watch_store(&self) -> Arc<dyn WatchStore>;

    /// The same store, as a worker sees it.
    fn lease_store(&self) -> Arc<dyn LeaseStore>;

    /// Where this run may write: a prefix that ends with a slash and that no other run uses.
    fn root(&self) -> &str;
}

/// A store whose history can be compacted on purpose.
#[async_trait]
pub trait Compacts: Backend {
    /// Compacts everything up to the last revision. No other run may be under way.
    async fn compact(&self);
}

/// Writes one test for each case of [`conformance`](crate::conformance).
///
/// It takes the test attribute, and an expression of type [`Backend`](crate::conformance::Backend),
/// which may await, for each test anew. Beginning with `compaction,` it writes the tests for those
/// that are [`Compacts`](crate::conformance::Compacts).
#[macro_export]
macro_rules! conformance_tests {
    (compaction, #[$($attribute:tt)+] $backend:expr $(,)?) => {
        $crate::conformance_tests! { @each [$($attribute)+] $backend;
            a_resume_after_a_compaction_says_compacted_and_never_hangs
            an_anchor_that_was_compacted_proves_nothing
            a_list_that_a_compaction_interrupts_begins_again
            a_list_taken_after_a_compaction_can_be_watched_from
            a_watch_that_is_up_to_date_survives_a_compaction
        }
    };
    (#[$($attribute:tt)+] $backend:expr $(,)?) => {
        $crate::conformance_tests! { @each [$($attribute)+] $backend;
            a_list_is_ordered_by_key_and_has_the_last_value_of_each
            a_list_of_several_pages_is_complete_and_shows_one_revision
            the_pages_of_a_list_are_the_list_and_the_last_one_says_so
            a_range_ends_at_its_boundary
            keys_and_values_that_are_not_utf_8_survive
            a_watch_delivers_every_later_change_once_in_order
            a_change_between_list_and_watch_is_delivered
            nothing_is_lost_or_twice_while_others_write
            a_deletion_is_delivered_without_a_value
            a_revision_with_several_keys_arrives_whole
            a_resume_goes_on_after_its_cursor
            an_anchor_proves_what_was_live_then_and_not_what_is_now
            a_wrong_anchor_says_replaced
            a_cursor_ahead_of_the_store_says_replaced
            a_quiet_watch_says_that_it_is_alive
            a_dropped_watch_leaves_no_task
            a_live_lease_is_renewed
            a_lease_that_is_gone_is_not_renewed
            a_put_under_a_lease_that_is_gone_is_refused
            an_expired_lease_takes_its_keys_along
            a_renewed_lease_outlives_its_first_term
            a_lease_may_be_revoked_twice
            a_key_put_under_another_lease_survives_the_end_of_the_first
            a_conditional_put_never_writes_over_a_successor
            a_conditional_delete_never_deletes_a_successor
        }
    };
    (@each $attribute:tt $backend:expr; $($case:ident)+) => {
        $($crate::conformance_tests! { @one $attribute $backend; $case })+
    };
    (@one [$($attribute:tt)+] $backend:expr; $case:ident) => {
        #[$($attribute)+]
        async fn $case() {
            let backend = $backend;
            $crate::conformance::$case(&backend).await;
        }
    };
}

/// How long a case waits for an event that must come.
const DEADLINE: Duration = Duration::from_secs(15);

/// A lease that no case outlives.
const LONG: Duration = Duration::from_secs(60);

/// The shortest lease that etcd grants.
const SHORT: Duration = Duration::from_secs(2);

/// A list has the entries of the range in the order of their keys, with what was last put.
pub async fn a_list_is_ordered_by_key_and_has_the_last_value_of_each(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let empty = test.list().await;
    assert_eq!(empty.entries, []);
    for (name, value) in [("b", "1"), ("c", "1"), ("a", "1"), ("b", "2")] {
        test.put(name, value).await;
    }
    let snapshot = test.list().await;
    let listed: Vec<_> = snapshot.entries.iter().map(|entry| (&entry.key, &entry.value)).collect();
    let expected = [("a", "1"), ("b", "2"), ("c", "1")];
    let expected = expected.map(|(name, value)| (test.key(name), Bytes::from(value)));
    assert_eq!(listed, expected.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>());
    for entry in &snapshot.entries {
        assert!(entry.mod_revision > empty.revision && entry.mod_revision <= snapshot.revision);
    }
}

/// Whoever takes a list in page by page knows what it says, and when it has all.
pub async fn the_pages_of_a_list_are_the_list_and_the_last_one_says_so(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let list = async || within("a list", test.store.list_pages(&test.range)).await.expect("a list");
    let pages: Vec<_> = list().await.pages.try_collect().await.expect("pages");
    assert!(pages.iter().all(|page| page.entries.is_empty()) && pages.len() == 1);
    test.put_pages().await;
    let Listing { revision, pages } = list().await;
    let pages: Vec<_> = pages.try_collect().await.expect("pages");
    let (last, others) = pages.split_last().expect("a page");
    assert!(!last.more && others.iter().all(|page| page.more));
    let Snapshot { revision: now, entries } = test.list().await;
    assert!(entries == pages.into_iter().flat_map(|page| page.entries).collect::<Vec<_>>());
    // Others may write elsewhere meanwhile.
    assert!(entries.iter().all(|entry| entry.mod_revision <= revision) && revision <= now);
}

/// A list is complete and of one revision also when it is longer than what a backend reads at once
/// and others write meanwhile.
pub async fn a_list_of_several_pages_is_complete_and_shows_one_revision(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put_pages().await;
    // The mark moves between the first page and the last; at every revision there is one.
    let write = async {
        loop {
            for (to, from) in [("first mark", "~ last mark"), ("~ last mark", "first mark")] {
                test.put(to, "").await;
                let key = test.key(from);
                test.leases.delete_if_leased(&key, test.lease).await.expect("an answer");
                tokio::task::yield_now().await;
            }
        }
    };
    let read = async {
        for _ in 0..10 {
            let Snapshot { revision, entries } = test.list().await;
            assert!(entries.iter().all(|entry| entry.mod_revision <= revision));
            let is_mark = |entry: &Entry| entry.key.to_string().ends_with("mark");
            let (marks, paged) = entries.into_iter().partition::<Vec<_>, _>(is_mark);
            assert!(matches!(marks.len(), 1 | 2), "{} marks at {revision}", marks.len());
            assert!(test.pages().eq(paged.into_iter().map(|entry| entry.key)));
            tokio::task::yield_now().await;
        }
    };
    test.put("~ last mark", "").await;
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

/// Neither list nor watch shows what lies beside the range.
pub async fn a_range_ends_at_its_boundary(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let cursor = test.cursor().await;
    let mut watching = test.watch(&cursor).await;
    let outside = test.range.start().as_str().unwrap_or_default().trim_end_matches('/');
    for beside in ["", "-other/a", "0", ".", "0/a"] {
        let key = format!("{outside}{beside}").into();
        test.leases.put(&key, Bytes::new(), test.lease).await.expect("a put");
    }
    test.put("a", "inside").await;
    test.put("", "the prefix itself").await;
    let expected = [test.key(""), test.key("a")];
    assert_eq!(keys(&test.list().await.entries), expected.iter().collect::<Vec<_>>());
    assert_eq!(watching.change().await, Change::Put(test.entry("a").await));
    assert_eq!(watching.change().await, Change::Put(test.entry("").await));
}

/// Keys and values are bytes.
pub async fn keys_and_values_that_are_not_utf_8_survive(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let mut watching = test.watch(&test.cursor().await).await;
    for odd in [&b"\xff\xfe\x00"[..], b"\x00", b"\xf0\x9f\x92", b"\r\n\x1b"] {
        let key = Key::from([test.range.start().as_bytes(), odd].concat());
        test.leases.put(&key, Bytes::from_static(odd), test.lease).await.expect("a put");
        let Change::Put(entry) = watching.change().await else { panic!("not a put") };
        assert_eq!((&entry.key, &entry.value[..]), (&key, odd));
        assert!(test.list().await.entries.contains(&entry));
    }
}

/// A watch delivers every change after its cursor, once, in order.
pub async fn a_watch_delivers_every_later_change_once_in_order(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put("before", "").await;
    let mut watching = test.watch(&test.cursor().await).await;
    for number in 0..100 {
        test.put(&format!("{}", number % 7), &number.to_string()).await;
    }
    for number in 0..100 {
        let Change::Put(entry) = watching.change().await else { panic!("not a put") };
        assert_eq!(entry.key, test.key(&format!("{}", number % 7)));
        assert_eq!(entry.value, number.to_string());
    }
}

/// A change that happens after a list and before the watch is delivered.
pub async fn a_change_between_list_and_watch_is_delivered(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put("kept", "").await;
    let cursor = test.cursor().await;
    test.put("new", "").await;
    test.delete("kept").await;
    let mut watching = test.watch(&cursor).await;
    assert_eq!(watching.change().await, Change::Put(test.entry("new").await));
    assert_eq!(watching.change().await, Change::Delete(test.key("kept")));
}

/// List and watch together, beside a writer that never pauses, hold every change exactly once.
pub async fn nothing_is_lost_or_twice_while_others_write(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let write = async {
        for number in 0..300 {
            test.put(&format!("{}", number % 10), &number.to_string()).await;
            tokio::task::yield_now().await;
        }
        test.put("last", "").await;
    };
    let read = async {
        for _ in 0..3 {
            let snapshot = test.list().await;
            let mut held: BTreeMap<_, _> =
                snapshot.entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
            let mut watching = test.watch(&cursor_of(&snapshot)).await;
            let mut reached = snapshot.revision;
            while !held.contains_key(&test.key("last")) {
                let Change::Put(entry) = watching.change().await else { panic!("not a put") };
                // Nothing but this writer counts the revisions of these keys.
                assert!(entry.mod_revision > reached, "delivered twice or out of order");
                reached = entry.mod_revision;
                held.insert(entry.key.clone(), entry);
            }
            assert_eq!(held.into_values().collect::<Vec<_>>(), test.list().await.entries);
        }
    };
    within("the last change", async { tokio::join!(write, read) }).await;
}

/// A deletion names the key.
pub async fn a_deletion_is_delivered_without_a_value(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put("a", "").await;
    let mut watching = test.watch(&test.cursor().await).await;
    test.delete("a").await;
    assert_eq!(watching.change().await, Change::Delete(test.key("a")));
    assert_eq!(test.list().await.entries, []);
}

/// All changes of one revision come in one batch.
pub async fn a_revision_with_several_keys_arrives_whole(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let other = test.grant(LONG).await;
    for number in 0..50 {
        test.put_under(&format!("{number:02}"), "", other.id).await.expect("a put");
    }
    test.put("kept", "").await;
    let cursor = test.cursor().await;
    let mut watching = test.watch(&cursor).await;
    test.leases.revoke(other.id).await.expect("a revoke");
    let (revision, mut changes) = watching.batch().await;
    assert!(revision > cursor.revision);
    changes.sort_unstable_by(|a, b| key_of(a).cmp(key_of(b)));
    let expected = (0..50).map(|number| Change::Delete(test.key(&format!("{number:02}"))));
    assert_eq!(changes, expected.collect::<Vec<_>>());
}

/// A watch from any earlier cursor delivers what came after it.
pub async fn a_resume_goes_on_after_its_cursor(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let mut cursors = Vec::new();
    for number in 0..10 {
        test.put(&number.to_string(), "").await;
        cursors.push(test.cursor().await);
    }
    for (number, cursor) in cursors.iter().enumerate().take(9) {
        let mut watching = test.watch(cursor).await;
        let next = test.entry(&(number + 1).to_string()).await;
        assert_eq!(watching.change().await, Change::Put(next));
    }
    let without_anchor = Cursor { anchor: None, ..cursors[4].clone() };
    let mut watching = test.watch(&without_anchor).await;
    assert_eq!(watching.change().await, Change::Put(test.entry("5").await));
}

/// The anchor counts as it was at the cursor, whatever became of it later.
pub async fn an_anchor_proves_what_was_live_then_and_not_what_is_now(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put("written", "1").await;
    test.put("deleted", "").await;
    let snapshot = test.list().await;
    test.put("written", "2").await;
    test.delete("deleted").await;
    for entry in snapshot.entries {
        let anchor = Some((entry.key.clone(), entry.stamp()));
        let mut watching = test.watch(&Cursor { revision: snapshot.revision, anchor }).await;
        assert_eq!(watching.change().await, Change::Put(test.entry("written").await));
    }
}

/// A cursor whose anchor is not in the store's history is of another store.
pub async fn a_wrong_anchor_says_replaced(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put("deleted", "").await;
    let deleted = test.entry("deleted").await;
    test.delete("deleted").await;
    test.put("live", "1").await;
    let early = test.entry("live").await;
    test.put("live", "2").await;
    let revision = test.list().await.revision;
    let live = test.entry("live").await.stamp();
    for anchor in [
        (test.key("live"), early.stamp()),
        (test.key("live"), Stamp { revision: Revision(revision.0 + 1), ..live }),
        // The same key at the same revision, as a store that was wiped and refilled may have it.
        (test.key("live"), Stamp { lease: Some(LeaseId(test.lease.0 + 1)), ..live }),
        (test.key("live"), Stamp { lease: None, ..live }),
        (test.key("deleted"), deleted.stamp()),
        (test.key("never"), Stamp { revision, ..live }),
    ] {
        let error = test.refusal(&Cursor { revision, anchor: Some(anchor.clone()) }).await;
        assert!(matches!(error, StoreError::Replaced), "{anchor:?}: {error:?}");
    }
}

/// A store that has not reached the cursor is not the one that it is from.
pub async fn a_cursor_ahead_of_the_store_says_replaced(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    test.put("a", "").await;
    let Cursor { revision, anchor } = test.cursor().await;
    let revision = Revision(revision.0 + 1_000_000);
    for anchor in [anchor, None] {
        let error = test.refusal(&Cursor { revision, anchor }).await;
        assert!(matches!(error, StoreError::Replaced), "{error:?}");
    }
}

/// A quiet watch says so at least every five seconds.
pub async fn a_quiet_watch_says_that_it_is_alive(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let mut watching = test.watch(&test.cursor().await).await;
    for _ in 0..2 {
        let item = timeout(Duration::from_millis(5_500), watching.items.next()).await;
        match item.expect("alive within five seconds") {
            Some(Ok(WatchItem::Alive)) => {}
            other => panic!("a quiet watch said {other:?}"),
        }
    }
    test.put("a", "").await;
    assert_eq!(watching.change().await, Change::Put(test.entry("a").await));
}

/// A dropped watch leaves nothing behind that runs.
pub async fn a_dropped_watch_leaves_no_task(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let cursor = test.cursor().await;
    let mut first = test.watch(&cursor).await;
    test.put("a", "").await;
    first.change().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let with_one = tasks();
    let mut others = Vec::new();
    for _ in 0..20 {
        let mut watching = test.watch(&cursor).await;
        watching.change().await;
        others.push(watching);
    }
    drop(others);
    within("the end of every task", async {
        while tasks() > with_one {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // What was dropped took nothing of the others with it.
    test.put("b", "").await;
    assert_eq!(first.change().await, Change::Put(test.entry("b").await));
}

/// A renewal tells how long the lease lives now.
pub async fn a_live_lease_is_renewed(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let lease = test.grant(LONG).await;
    assert!(lease.ttl >= LONG);
    assert_eq!(test.leases.renew(lease.id).await.expect("a renewal"), Some(lease.ttl));
}

/// A renewal of what is gone, or never was, says so.
pub async fn a_lease_that_is_gone_is_not_renewed(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let lease = test.grant(LONG).await;
    test.leases.revoke(lease.id).await.expect("a revoke");
    for id in [lease.id, LeaseId(0x7abc_def0_1234)] {
        for _ in 0..2 {
            assert_eq!(test.leases.renew(id).await.expect("an answer"), None);
        }
    }
}

/// A put needs a lease that lives.
pub async fn a_put_under_a_lease_that_is_gone_is_refused(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let lease = test.grant(LONG).await;
    test.leases.revoke(lease.id).await.expect("a revoke");
    let error = test.put_under("a", "", lease.id).await.expect_err("a refusal");
    assert!(matches!(error, StoreError::LeaseGone), "{error:?}");
    let put = test.leases.put_if_leased(&test.key("a"), Bytes::new(), lease.id).await;
    assert!(!put.expect("an answer"));
    assert_eq!(test.list().await.entries, []);
}

/// The keys of a lease that nobody renews are deleted.
pub async fn an_expired_lease_takes_its_keys_along(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let lease = test.grant(SHORT).await;
    for name in ["a", "b"] {
        test.put_under(name, "", lease.id).await.expect("a put");
    }
    let granted = Instant::now();
    let mut watching = test.watch(&test.cursor().await).await;
    let (_, mut changes) = watching.batch().await;
    assert!(granted.elapsed() > lease.ttl / 2, "the keys were deleted early");
    changes.sort_unstable_by(|a, b| key_of(a).cmp(key_of(b)));
    assert_eq!(changes, [test.key("a"), test.key("b")].map(Change::Delete));
    assert_eq!(test.leases.renew(lease.id).await.expect("an answer"), None);
}

/// A lease that is renewed lives on.
pub async fn a_renewed_lease_outlives_its_first_term(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let lease = test.grant(SHORT).await;
    test.put_under("a", "", lease.id).await.expect("a put");
    let granted = Instant::now();
    while granted.elapsed() < lease.ttl * 2 {
        sleep(lease.ttl / 4).await;
        assert_eq!(test.leases.renew(lease.id).await.expect("a renewal"), Some(lease.ttl));
    }
    assert_eq!(keys(&test.list().await.entries), [&test.key("a")]);
}

/// Revoking what is gone is no error.
pub async fn a_lease_may_be_revoked_twice(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let lease = test.grant(LONG).await;
    for _ in 0..2 {
        test.leases.revoke(lease.id).await.expect("a revoke");
    }
}

/// A key belongs to the lease under which it was last put.
pub async fn a_key_put_under_another_lease_survives_the_end_of_the_first(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let first = test.grant(LONG).await;
    test.put_under("a", "first", first.id).await.expect("a put");
    test.put("a", "second").await;
    test.leases.revoke(first.id).await.expect("a revoke");
    assert_eq!(test.entry("a").await.value, "second");
}

/// A conditional put writes only what is still under the lease.
pub async fn a_conditional_put_never_writes_over_a_successor(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let first = test.grant(LONG).await;
    let key = test.key("a");
    let draining = || Bytes::from_static(b"draining");
    let put = async |lease| test.leases.put_if_leased(&key, draining(), lease).await;

    assert!(!put(first.id).await.expect("an answer"), "there is no such key yet");
    test.put_under("a", "first", first.id).await.expect("a put");
    assert!(put(first.id).await.expect("an answer"));
    assert_eq!(test.entry("a").await.value, draining());

    test.put("a", "second").await;
    assert!(!put(first.id).await.expect("an answer"));
    assert_eq!(test.entry("a").await.value, "second");
    // It is still under the second lease.
    test.leases.revoke(first.id).await.expect("a revoke");
    assert_eq!(test.entry("a").await.value, "second");
}

/// A conditional delete deletes only what is still under the lease.
pub async fn a_conditional_delete_never_deletes_a_successor(backend: &dyn Backend) {
    let test = Test::new(backend).await;
    let first = test.grant(LONG).await;
    let key = test.key("a");
    let delete = async |lease| test.leases.delete_if_leased(&key, lease).await;

    assert!(!delete(first.id).await.expect("an answer"), "there is no such key yet");
    test.put_under("a", "first", first.id).await.expect("a put");
    test.put("a", "second").await;
    assert!(!delete(first.id).await.expect("an answer"));
    assert_eq!(test.entry("a").await.value, "second");

    assert!(delete(test.lease).await.expect("an answer"));
    assert!(!delete(test.lease).await.expect("an answer"));
    assert_eq!(test.list().await.entries, []);
}

/// A watch from what is compacted says so, at the call or in the stream, and does not hang.
pub async fn a_resume_after_a_compaction_says_compacted_and_never_hangs(backend: &dyn Compacts) {
    let test = Test::new(backend).await;
    test.put("a", "1").await;
    let Cursor { revision, anchor } = test.cursor().await;
    for value in ["2", "3", "4"] {
        test.put("a", value).await;
    }
    backend.compact().await;
    for anchor in [anchor, None] {
        let error = test.refusal(&Cursor { revision, anchor }).await;
        assert!(matches!(error, StoreError::Compacted), "{error:?}");
    }
}

/// Where the anchor cannot be looked up any more, the resume is not taken on trust.
pub async fn an_anchor_that_was_compacted_proves_nothing(backend: &dyn Compacts) {
    let test = Test::new(backend).await;
    test.put("a", "1").await;
    let cursor = test.cursor().await;
    // The watch could begin at the next revision, the compacted one; the anchor is before it.
    test.put("a", "2").await;
    backend.compact().await;
    let error = test.refusal(&cursor).await;
    assert!(matches!(error, StoreError::Compacted), "{error:?}");
}

/// A list of several pages does not fail because of a compaction between two of them.
pub async fn a_list_that_a_compaction_interrupts_begins_again(backend: &dyn Compacts) {
    let test = Test::new(backend).await;
    test.put_pages().await;
    for _ in 0..20 {
        let compact = async {
            test.put("~ other", "").await;
            backend.compact().await;
        };
        let (snapshot, ()) = tokio::join!(test.list(), compact);
        let listed = snapshot.entries.into_iter().map(|entry| entry.key);
        assert!(test.pages().eq(listed.filter(|key| *key != test.key("~ other"))));
    }
}

/// Listing again is what helps.
pub async fn a_list_taken_after_a_compaction_can_be_watched_from(backend: &dyn Compacts) {
    let test = Test::new(backend).await;
    test.put("a", "").await;
    test.put("b", "").await;
    backend.compact().await;
    let snapshot = test.list().await;
    assert_eq!(keys(&snapshot.entries), [&test.key("a"), &test.key("b")]);
    for entry in snapshot.entries {
        let anchor = Some((entry.key.clone(), entry.stamp()));
        let mut watching = test.watch(&Cursor { revision: snapshot.revision, anchor }).await;
        test.put("c", "").await;
        watching.change().await;
    }
}

/// Compaction forgets the past, which a watch that is up to date does not need.
pub async fn a_watch_that_is_up_to_date_survives_a_compaction(backend: &dyn Compacts) {
    let test = Test::new(backend).await;
    let mut watching = test.watch(&test.cursor().await).await;
    for value in ["1", "2", "3"] {
        test.put("a", value).await;
        assert_eq!(watching.change().await, Change::Put(test.entry("a").await));
        backend.compact().await;
    }
}

/// One run: a range of its own and a lease that keeps what the case puts.
struct Test {
    store: Arc<dyn WatchStore>,
    leases: Arc<dyn LeaseStore>,
    range: KeyRange,
    lease: LeaseId,
}

impl Test {
    async fn new<B: Backend + ?Sized>(backend: &B) -> Self {
        let leases = backend.lease_store();
        let lease = leases.grant(LONG).await.expect("a lease").id;
        let range = KeyRange::prefix(&format!("{}models/", backend.root()));
        Self { store: backend.watch_store(), leases, range, lease }
    }

    fn key(&self, name: &str) -> Key {
        [self.range.start().as_bytes(), name.as_bytes()].concat().into()
    }

    async fn grant(&self, ttl: Duration) -> Lease {
        self.leases.grant(ttl).await.expect("a lease")
    }

    async fn put(&self, name: &str, value: &str) {
        self.put_under(name, value, self.lease).await.expect("a put");
    }

    async fn put_under(&self, name: &str, value: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.put(&self.key(name), Bytes::copy_from_slice(value.as_bytes()), lease).await
    }

    /// The keys of more entries than any backend is expected to read at once, also where it reads
    /// more the second time.
    fn pages(&self) -> impl Iterator<Item = Key> {
        (0..10_200).map(|number| self.key(&format!("page {number:05}")))
    }

    async fn put_pages(&self) {
        let puts = stream::iter(self.pages()).map(|key| async move {
            self.leases.put(&key, Bytes::new(), self.lease).await.expect("a put");
        });
        puts.buffer_unordered(64).collect::<()>().await;
    }

    async fn delete(&self, name: &str) {
        let deleted = self.leases.delete_if_leased(&self.key(name), self.lease).await;
        assert!(deleted.expect("an answer"), "{name} is not ours");
    }

    async fn list(&self) -> Snapshot {
        within("a list", self.store.list(&self.range)).await.expect("a list")
    }

    async fn entry(&self, name: &str) -> Entry {
        let key = self.key(name);
        let mut entries = self.list().await.entries.into_iter();
        entries.find(|entry| entry.key == key).unwrap_or_else(|| panic!("there is no {key}"))
    }

    async fn cursor(&self) -> Cursor {
        cursor_of(&self.list().await)
    }

    async fn watch(&self, after: &Cursor) -> Watching {
        let watching = within("a watch", self.store.watch(&self.range, after)).await;
        let items = watching.unwrap_or_else(|error| panic!("no watch after {after:?}: {error:?}"));
        Watching { items, rest: VecDeque::new() }
    }

    /// Why there is no watch after this cursor, told at the call or by its first item.
    async fn refusal(&self, after: &Cursor) -> StoreError {
        match within("an answer", self.store.watch(&self.range, after)).await {
            Err(error) => error,
            Ok(mut items) => match within("an item", items.next()).await {
                Some(Err(error)) => error,
                other => panic!("the watch after {after:?} began with {other:?}"),
            },
        }
    }
}

/// A watch whose quiet moments are skipped.
struct Watching {
    items: BoxStream<'static, Result<WatchItem, StoreError>>,
    /// What came in a batch and was not yet asked for.
    rest: VecDeque<Change>,
}

impl Watching {
    async fn batch(&mut self) -> (Revision, Vec<Change>) {
        within("a batch", async {
            loop {
                match self.items.next().await {
                    Some(Ok(WatchItem::Batch { revision, changes })) => return (revision, changes),
                    Some(Ok(WatchItem::Alive)) => {}
                    other => panic!("the watch ended with {other:?}"),
                }
            }
        })
        .await
    }

    async fn change(&mut self) -> Change {
        loop {
            if let Some(change) = self.rest.pop_front() {
                return change;
            }
            let (revision, changes) = self.batch().await;
            let last = changes.iter().rev().find_map(|change| match change {
                Change::Put(entry) => Some(entry.mod_revision),
                Change::Delete(_) => None,
            });
            assert!(last <= Some(revision), "a batch is older than its last change");
            self.rest.extend(changes);
        }
    }
}

fn cursor_of(snapshot: &Snapshot) -> Cursor {
    let anchor = snapshot.entries.last().map(|entry| (entry.key.clone(), entry.stamp()));
    Cursor { revision: snapshot.revision, anchor }
}

fn keys(entries: &[Entry]) -> Vec<&Key> {
    entries.iter().map(|entry| &entry.key).collect()
}

fn key_of(change: &Change) -> &Key {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete(key) => key,
    }
}

async fn within<F: Future>(what: &str, event: F) -> F::Output {
    let event = timeout(DEADLINE, event).await;
    event.unwrap_or_else(|_| panic!("no {what} within {} s", DEADLINE.as_secs()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_is_in_the_macro() {
        let source = include_str!("conformance.rs");
        let declared = source.lines().filter_map(|line| line.strip_prefix("pub async fn "));
        let mut cases = declared.map(|rest| rest.split('(').next().unwrap()).collect::<Vec<_>>();
        let mut written: Vec<_> =
            source.lines().map(str::trim).filter(|line| cases.contains(line)).collect();
        cases.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, cases);
    }
}
