//! Tests of registrations, in paused time, over the store in memory and over scripted ones.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_namespace::EndpointId;
use futures_util::StreamExt;
use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::entry::State;
use crate::kind::Kind;
use crate::memory::MemoryStore;
use crate::model_key::InstanceId;
use crate::network_prefix::NetworkPrefix;
use crate::store::{
    Change, Cursor, Key, Lease, LeaseStore, MockLeaseStore, Revision, WatchItem, WatchStore,
};

const TTL: Duration = Duration::from_secs(9);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn entry(name: &str) -> ModelEntry {
    let endpoint: EndpointId = "team-a.backend.generate".parse().unwrap();
    ModelEntry::new(name, endpoint, Kind::Chat.into()).unwrap()
}

fn config(store: impl LeaseStore) -> RegistrationConfig {
    RegistrationConfig::new(Arc::new(store)).with_instance(InstanceId(0x1f)).with_ttl(TTL)
}

async fn listed(store: &MemoryStore) -> Vec<(String, ModelEntry)> {
    let snapshot = store.list(&NetworkPrefix::default().range()).await.unwrap();
    let entries = snapshot.entries.into_iter();
    entries
        .map(|entry| (entry.key.to_string(), ModelEntry::from_json(&entry.value).unwrap()))
        .collect()
}

/// The changes after a revision: puts as `name state`, deletions as `-name`.
async fn story(store: &MemoryStore, after: u64) -> Vec<String> {
    let after = Cursor { revision: Revision(after), anchor: None };
    let range = NetworkPrefix::default().range();
    let Some(Ok(WatchItem::Batch { changes, .. })) =
        store.watch(&range, &after).await.unwrap().next().await
    else {
        panic!("nothing happened");
    };
    let tell = |change| match change {
        Change::Put(put) => {
            let entry = ModelEntry::from_json(&put.value).unwrap();
            format!("{} {}", entry.name(), entry.state())
        }
        Change::Delete(key) => format!("-{}", key.to_string().rsplit('/').next().unwrap()),
    };
    changes.into_iter().map(tell).collect()
}

/// A store whose answers to renewals can be held back, and whose puts can take long.
#[derive(Clone)]
struct Laggard {
    store: MemoryStore,
    put: Duration,
    silent: watch::Sender<bool>,
}

impl Laggard {
    fn new(store: &MemoryStore) -> Self {
        Self { store: store.clone(), put: Duration::ZERO, silent: watch::Sender::new(false) }
    }
}

#[async_trait]
impl LeaseStore for Laggard {
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    /// Renews, and holds the answer back while silent.
    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        let answer = self.store.renew(lease).await;
        let mut silent = self.silent.subscribe();
        silent.wait_for(|silent| !silent).await.unwrap();
        answer
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError> {
        sleep(self.put).await;
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

/// A store whose writes can fail in these ways.
#[derive(Clone)]
struct Moody {
    store: MemoryStore,
    mood: watch::Sender<Mood>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Good,
    /// It does what it is asked, and its answers are lost.
    Mute,
    /// It takes no puts.
    Full,
    /// It answers to no put.
    Deaf,
}

#[async_trait]
impl LeaseStore for Moody {
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.store.renew(lease).await
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError> {
        let mood = *self.mood.borrow();
        if mood == Mood::Full {
            return Err(StoreError::Full("scripted".into()));
        }
        if mood == Mood::Deaf {
            std::future::pending::<()>().await;
        }
        self.store.put(key, value, lease).await?;
        if mood == Mood::Mute { unavailable() } else { Ok(()) }
    }

    async fn put_if_leased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        let mood = *self.mood.borrow();
        if mood == Mood::Full {
            return Err(StoreError::Full("scripted".into()));
        }
        if mood == Mood::Deaf {
            std::future::pending::<()>().await;
        }
        let done = self.store.put_if_leased(key, value, lease).await?;
        if mood == Mood::Mute { unavailable() } else { Ok(done) }
    }

    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError> {
        self.store.delete_if_leased(key, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
}

fn moody() -> (MemoryStore, watch::Sender<Mood>, RegistrationConfig) {
    let store = MemoryStore::new();
    let mood = watch::Sender::new(Mood::Good);
    let config = config(Moody { store: store.clone(), mood: mood.clone() });
    (store, mood, config)
}

/// A store that grants, takes every put, and answers renewals by this script.
fn scripted(
    mut renew: impl FnMut() -> Result<Option<Duration>, StoreError> + Send + 'static,
) -> MockLeaseStore {
    let mut store = MockLeaseStore::new();
    store.expect_grant().returning(|ttl| Ok(Lease { id: LeaseId(7), ttl }));
    store.expect_put().returning(|_, _, _| Ok(()));
    store.expect_renew().returning(move |_| renew());
    store
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("scripted".into()))
}

#[tokio::test]
async fn models_are_published_under_the_keys_of_their_instance() {
    let store = MemoryStore::new();
    let _registration =
        Registration::publish(config(store.clone()), vec![entry("b/c"), entry("a")]).await.unwrap();
    let expected = [
        ("models/team-a/backend/generate/1f/a".to_owned(), entry("a")),
        ("models/team-a/backend/generate/1f/b%2Fc".to_owned(), entry("b/c")),
    ];
    assert_eq!(listed(&store).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_registration_outlives_many_terms_of_its_lease() {
    let store = MemoryStore::new();
    let registration =
        Registration::publish(config(store.clone()), vec![entry("a")]).await.unwrap();
    assert!(timeout(TTL * 10, registration.lost()).await.is_err());
    assert_eq!(listed(&store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn renewals_without_an_answer_lose_the_lease_at_its_ttl_after_the_last_answer() {
    let laggard = Laggard::new(&MemoryStore::new());
    let registration =
        Registration::publish(config(laggard.clone()), vec![entry("a")]).await.unwrap();
    let begin = Instant::now();
    // Renewed and answered at 3 and at 6 seconds.
    sleep(seconds(7)).await;
    laggard.silent.send_replace(true);
    registration.lost().await;
    assert_eq!(begin.elapsed(), seconds(6) + TTL);
}

#[tokio::test(start_paused = true)]
async fn an_answer_just_before_the_deadline_saves_the_lease() {
    let laggard = Laggard::new(&MemoryStore::new());
    let registration =
        Registration::publish(config(laggard.clone()), vec![entry("a")]).await.unwrap();
    laggard.silent.send_replace(true);
    sleep(TTL - Duration::from_millis(1)).await;
    laggard.silent.send_replace(false);
    assert!(timeout(TTL * 2, registration.lost()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_renewals_are_tried_again_until_one_succeeds() {
    let mut failures = 6;
    let store = scripted(move || {
        failures -= i32::from(failures > 0);
        if failures > 0 { unavailable() } else { Ok(Some(TTL)) }
    });
    let registration = Registration::publish(config(store), vec![entry("a")]).await.unwrap();
    assert!(timeout(TTL * 3, registration.lost()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_fails_loses_the_lease_at_its_ttl_and_not_earlier() {
    let store = scripted(unavailable);
    let registration = Registration::publish(config(store), vec![entry("a")]).await.unwrap();
    let begin = Instant::now();
    registration.lost().await;
    assert_eq!(begin.elapsed(), TTL);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_has_ended_is_lost_at_once() {
    for answer in [None, Some(Duration::ZERO)] {
        let store = scripted(move || Ok(answer));
        let registration = Registration::publish(config(store), vec![entry("a")]).await.unwrap();
        let begin = Instant::now();
        registration.lost().await;
        assert_eq!(begin.elapsed(), TTL / 3);
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_follows_the_ttl_that_the_store_grants() {
    let mut answers = vec![Ok(Some(TTL * 3))];
    let store = scripted(move || answers.pop().unwrap_or_else(unavailable));
    let registration = Registration::publish(config(store), vec![entry("a")]).await.unwrap();
    let begin = Instant::now();
    registration.lost().await;
    assert_eq!(begin.elapsed(), TTL / 3 + TTL * 3);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_slept_through_its_lease_knows_it_when_it_wakes() {
    let store = MemoryStore::new();
    let registration = Registration::publish(config(store), vec![entry("a")]).await.unwrap();
    advance(TTL * 5).await;
    let woken = Instant::now();
    registration.lost().await;
    assert_eq!(woken.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn publishing_keeps_its_lease_however_long_the_puts_take() {
    let store = MemoryStore::new();
    let slow = Laggard { put: seconds(4), ..Laggard::new(&store) };
    let entries = vec![entry("a"), entry("b"), entry("c"), entry("d")];
    let _registration = Registration::publish(config(slow), entries).await.unwrap();
    assert_eq!(listed(&store).await.len(), 4);
}

#[tokio::test]
async fn a_put_under_a_dead_lease_is_an_error() {
    let mut store = MockLeaseStore::new();
    store.expect_grant().returning(|ttl| Ok(Lease { id: LeaseId(7), ttl }));
    store.expect_put().returning(|_, _, _| Err(StoreError::LeaseGone));
    let result = Registration::publish(config(store), vec![entry("a")]).await;
    assert!(matches!(result, Err(StoreError::LeaseGone)));
}

#[tokio::test]
async fn a_publication_that_is_denied_leaves_no_lease_behind() {
    let mut store = MockLeaseStore::new();
    let lease = Lease { id: LeaseId(7), ttl: TTL };
    store.expect_grant().once().return_once(move |_| Ok(lease));
    store.expect_put().once().return_once(|_, _, _| Err(StoreError::Denied("no role".into())));
    store.expect_revoke().once().withf(|id| *id == LeaseId(7)).return_once(|_| Ok(()));
    let denied = Registration::publish(config(store), vec![entry("m")]).await;
    assert!(matches!(denied, Err(StoreError::Denied(_))));
}

#[tokio::test]
async fn publishing_again_writes_the_same_keys_and_values() {
    let store = MemoryStore::new();
    let config = config(store.clone());
    let first = Registration::publish(config.clone(), vec![entry("a")]).await.unwrap();
    let before = listed(&store).await;
    store.revoke(first.lease).await.unwrap();
    let _second = Registration::publish(config, vec![entry("a")]).await.unwrap();
    assert_eq!(listed(&store).await, before);
}

#[tokio::test]
async fn a_withdrawal_says_draining_for_all_before_it_deletes_any() {
    let store = MemoryStore::new();
    let registration =
        Registration::publish(config(store.clone()), vec![entry("a"), entry("b")]).await.unwrap();
    let lease = registration.lease;
    registration.withdraw().await.unwrap();
    assert_eq!(
        story(&store, 1).await,
        ["a serving", "b serving", "a draining", "b draining", "-a", "-b"]
    );
    assert_eq!(store.renew(lease).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_whose_mark_gets_no_answer_still_deletes_and_ends_the_lease_in_its_time() {
    let (store, mood, config) = moody();
    let registration = Registration::publish(config, vec![entry("a"), entry("b")]).await.unwrap();
    let lease = registration.lease;
    mood.send_replace(Mood::Deaf);
    timeout(seconds(2), registration.withdraw_within(seconds(2))).await.unwrap().unwrap();
    // The deletions have a revision each; the end of the lease would be one for both.
    assert_eq!(story(&store, 3).await, ["-a", "-b"]);
    assert_eq!(store.revision().0, 5);
    assert_eq!(store.renew(lease).await.unwrap(), None);
}

#[tokio::test]
async fn a_late_withdrawal_never_touches_its_successor() {
    let store = MemoryStore::new();
    let config = config(store.clone());
    let first = Registration::publish(config.clone(), vec![entry("a")]).await.unwrap();
    let _second = Registration::publish(config, vec![entry("a")]).await.unwrap();
    first.withdraw().await.unwrap();
    assert_eq!(story(&store, 1).await, ["a serving", "a serving"]);
    assert_eq!(listed(&store).await.len(), 1);
}

#[tokio::test]
async fn withdrawing_what_the_store_has_ended_is_no_error() {
    let store = MemoryStore::new();
    let registration =
        Registration::publish(config(store.clone()), vec![entry("a")]).await.unwrap();
    store.revoke(registration.lease).await.unwrap();
    registration.withdraw().await.unwrap();
}

#[tokio::test]
async fn an_update_puts_what_changed_and_withdraws_what_left() {
    let store = MemoryStore::new();
    let entries = vec![entry("kept"), entry("left"), entry("changed")];
    let mut registration = Registration::publish(config(store.clone()), entries).await.unwrap();
    let published = store.revision().0;
    let changed = entry("changed").with_context_length(4096);
    registration.update(vec![entry("new"), entry("kept"), changed]).await.unwrap();
    assert_eq!(
        story(&store, published).await,
        ["changed serving", "new serving", "left draining", "-left"]
    );
}

#[tokio::test]
async fn an_update_that_failed_half_way_is_completed_by_the_next() {
    let store = MemoryStore::new();
    let mut registration =
        Registration::publish(config(store.clone()), vec![entry("a"), entry("b")]).await.unwrap();
    store.set_available(false);
    registration.update(vec![entry("b"), entry("c")]).await.unwrap_err();
    store.set_available(true);
    registration.update(vec![entry("b"), entry("c")]).await.unwrap();
    assert_eq!(listed(&store).await.len(), 2);
    // An entry that is wanted again after it was marked as draining serves again.
    store.set_available(false);
    registration.update(vec![entry("b")]).await.unwrap_err();
    store.set_available(true);
    registration.update(vec![entry("b"), entry("c")]).await.unwrap();
    assert_eq!(listed(&store).await[1].1, entry("c"));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_registration_is_renewed_no_more() {
    let store = MemoryStore::new();
    let registration =
        Registration::publish(config(store.clone()), vec![entry("a")]).await.unwrap();
    sleep(TTL * 2).await;
    let lost = registration.lost();
    drop(registration);
    lost.await;
    sleep(TTL).await;
    assert_eq!(listed(&store).await, []);
}

#[tokio::test]
async fn a_put_that_was_applied_without_an_answer_is_withdrawn_when_it_is_not_wanted() {
    let (store, mood, config) = moody();
    let mut registration = Registration::publish(config, vec![entry("a")]).await.unwrap();
    mood.send_replace(Mood::Mute);
    registration.update(vec![entry("a"), entry("b")]).await.unwrap_err();
    assert_eq!(listed(&store).await.len(), 2, "it was applied");
    mood.send_replace(Mood::Good);
    let before = store.revision().0;
    registration.update(vec![entry("a")]).await.unwrap();
    assert_eq!(story(&store, before).await, ["b draining", "-b"]);
}

#[tokio::test]
async fn a_put_that_was_applied_without_an_answer_is_put_again_when_it_is_wanted() {
    let (store, mood, config) = moody();
    let mut registration = Registration::publish(config, vec![entry("a")]).await.unwrap();
    mood.send_replace(Mood::Mute);
    let changed = || entry("a").with_context_length(4096);
    registration.update(vec![changed()]).await.unwrap_err();
    mood.send_replace(Mood::Good);
    // Back to what it was before: the store has the other.
    registration.update(vec![entry("a")]).await.unwrap();
    assert_eq!(listed(&store).await[0].1, entry("a"));
    let lease = registration.lease;
    mood.send_replace(Mood::Mute);
    registration.update(vec![entry("a"), entry("b")]).await.unwrap_err();
    registration.withdraw().await.unwrap();
    assert_eq!(listed(&store).await, []);
    assert_eq!(store.renew(lease).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_without_space_still_loses_what_is_withdrawn() {
    let (store, mood, config) = moody();
    let mut registration =
        Registration::publish(config, vec![entry("a"), entry("b")]).await.unwrap();
    let published = store.revision().0;
    mood.send_replace(Mood::Full);
    registration.update(vec![entry("a")]).await.unwrap();
    assert_eq!(story(&store, published).await, ["-b"]);
    let full = registration.update(vec![entry("a"), entry("c")]).await;
    assert!(matches!(full, Err(StoreError::Full(_))));
    registration.withdraw().await.unwrap();
    assert_eq!(listed(&store).await, []);
}

#[tokio::test(start_paused = true)]
async fn keys_that_lost_their_lease_are_put_under_it_again_with_the_next_renewal() {
    let store = MemoryStore::new();
    let names = ["kept", "deleted", "drained", "overwritten", "broken", "taken"];
    let entries = names.map(entry).to_vec();
    let registration = Registration::publish(config(store.clone()), entries).await.unwrap();
    let key = |name: &str| Key::from(format!("models/team-a/backend/generate/1f/{name}"));
    let drained = || entry("drained").with_state(State::Draining);
    let other = entry("overwritten").with_context_length(1);
    let successor = store.grant(TTL * 10).await.unwrap().id;
    store.delete(key("deleted"));
    store.put_unleased(key("drained"), drained().to_json());
    store.put_unleased(key("overwritten"), other.to_json());
    store.put_unleased(key("broken"), "no entry");
    store.put(&key("taken"), entry("taken").to_json(), successor).await.unwrap();
    let before = store.revision();
    sleep(TTL / 2).await;
    let changes = story(&store, before.0).await;
    let expected = ["broken serving", "deleted serving", "drained draining", "overwritten serving"];
    assert_eq!(changes, expected);
    // Once: they are under the lease now, and end with it.
    sleep(TTL).await;
    assert_eq!(store.revision().0, before.0 + 4);
    let lease = registration.lease;
    registration.withdraw().await.unwrap();
    assert_eq!(listed(&store).await, [(key("taken").to_string(), entry("taken"))]);
    assert_eq!(store.renew(lease).await.unwrap(), None);
}
