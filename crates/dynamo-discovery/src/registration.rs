//! One lease's life: publish a worker's models, keep them, withdraw them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::entry::{ModelEntry, State};
use crate::error_chain::ErrorChain;
use crate::model_key::{InstanceId, ModelKey};
use crate::network_prefix::NetworkPrefix;
use crate::store::{Key, Lease, LeaseId, LeaseStore, StoreError};

/// Where a worker publishes its models, as which instance, and for how long they outlive it.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use dynamo_discovery::{InstanceId, MemoryStore, RegistrationConfig};
///
/// let config = RegistrationConfig::new(Arc::new(MemoryStore::new()))
///     .with_network_prefix("staging/models/".parse()?)
///     .with_instance(InstanceId(0x1f))
///     .with_ttl(Duration::from_secs(20));
/// # Ok::<(), dynamo_discovery::InvalidPrefix>(())
/// ```
#[derive(Clone)]
pub struct RegistrationConfig {
    store: Arc<dyn LeaseStore>,
    network_prefix: NetworkPrefix,
    instance: InstanceId,
    ttl: Duration,
}

impl RegistrationConfig {
    /// The TTL by default: 10 seconds.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

    /// A random instance in this store, below the default [`NetworkPrefix`], with the
    /// [`DEFAULT_TTL`](Self::DEFAULT_TTL).
    #[must_use]
    pub fn new(store: Arc<dyn LeaseStore>) -> Self {
        Self {
            store,
            network_prefix: NetworkPrefix::default(),
            instance: InstanceId::random(),
            ttl: Self::DEFAULT_TTL,
        }
    }

    /// Sets the root of the keys. By default it is [`NetworkPrefix::default`].
    #[must_use]
    pub fn with_network_prefix(self, network_prefix: NetworkPrefix) -> Self {
        Self { network_prefix, ..self }
    }

    /// Sets the worker process as which the models are published. By default it is a random one.
    ///
    /// A worker that publishes again after a loss uses the same instance: then the same keys get the
    /// same values, and no watcher sees a change.
    #[must_use]
    pub fn with_instance(self, instance: InstanceId) -> Self {
        Self { instance, ..self }
    }

    /// Sets how long the entries outlive the worker. By default [`DEFAULT_TTL`](Self::DEFAULT_TTL).
    /// A store may grant more.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// The worker process as which the models are published.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    fn key(&self, entry: &ModelEntry) -> Key {
        let key = ModelKey::Native {
            endpoint: entry.endpoint().clone(),
            instance: self.instance,
            model: entry.name().to_owned(),
        };
        self.network_prefix.key(&key)
    }

    fn by_key(&self, entries: Vec<ModelEntry>) -> BTreeMap<Key, ModelEntry> {
        entries.into_iter().map(|entry| (self.key(&entry), entry)).collect()
    }
}

impl fmt::Debug for RegistrationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationConfig")
            .field("network_prefix", &self.network_prefix)
            .field("instance", &self.instance)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// A worker's models in the store, under one lease, which a task renews.
///
/// A registration ends once: it is [`withdraw`](Self::withdraw)n or [`lost`](Self::lost). After a
/// loss its owner publishes again, with the same [`RegistrationConfig`]. Dropped, it stops renewing,
/// and its entries end with the lease.
///
/// ```
/// use std::sync::Arc;
/// use dynamo_discovery::{
///     KeyRange, Kind, MemoryStore, ModelEntry, Registration, RegistrationConfig, WatchStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let endpoint = "team-a.backend.generate".parse()?;
/// let entry = ModelEntry::new("my-model", endpoint, Kind::Chat.into())?
///     .with_url("http://192.0.2.5:8001".parse()?);
///
/// let config = RegistrationConfig::new(Arc::new(store.clone()));
/// let registration = Registration::publish(config, vec![entry]).await?;
/// let models = KeyRange::prefix("models/");
/// assert_eq!(store.list(&models).await?.entries.len(), 1);
///
/// registration.withdraw().await?;
/// assert_eq!(store.list(&models).await?.entries.len(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registration {
    config: RegistrationConfig,
    lease: LeaseId,
    /// What the store holds of ours.
    published: BTreeMap<Key, ModelEntry>,
    lost: watch::Receiver<bool>,
    _keeper: AbortOnDrop,
}

impl Registration {
    /// Grants a lease, puts every entry under it, and keeps renewing it.
    ///
    /// Of entries with one endpoint and one name, the last counts.
    ///
    /// # Errors
    ///
    /// As the store's. What was put by then ends with the lease, which is revoked if the store still
    /// answers; publishing again replaces it.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with its time enabled: a task renews the lease.
    pub async fn publish(
        config: RegistrationConfig,
        entries: Vec<ModelEntry>,
    ) -> Result<Self, StoreError> {
        let lease = config.store.grant(config.ttl).await?;
        // It runs from here on, so that many entries or a slow store do not outlast the lease.
        let (sender, lost) = watch::channel(false);
        let keeper = tokio::spawn(keep(Arc::clone(&config.store), lease, Instant::now(), sender));
        let _keeper = AbortOnDrop(keeper.abort_handle());
        let mut registration =
            Self { config, lease: lease.id, published: BTreeMap::new(), lost, _keeper };
        match registration.update(entries).await {
            Ok(()) => Ok(registration),
            Err(error) => {
                registration.give_up(&error).await;
                Err(error)
            }
        }
    }

    /// Ends the lease of a publication that failed, so that an owner who tries again and again does
    /// not leave one behind each time. Where the store is away, the lease ends by itself.
    async fn give_up(self, error: &StoreError) {
        if !matches!(error, StoreError::Unavailable(_) | StoreError::LeaseGone)
            && let Err(error) = self.config.store.revoke(self.lease).await
        {
            debug!(lease = %self.lease, error = %ErrorChain(&error), "not revoked");
        }
    }

    /// Makes these the published entries: puts what is new or changed, withdraws what is not among
    /// them, and leaves the rest alone.
    ///
    /// # Errors
    ///
    /// As the store's, [`StoreError::LeaseGone`] included. What was done by then stands; the next
    /// update does the rest.
    pub async fn update(&mut self, entries: Vec<ModelEntry>) -> Result<(), StoreError> {
        let wanted = self.config.by_key(entries);
        for (key, entry) in &wanted {
            if self.published.get(key) != Some(entry) {
                self.config.store.put(key, entry.to_json(), self.lease).await?;
                self.published.insert(key.clone(), entry.clone());
            }
        }
        let left = self.published.keys().filter(|key| !wanted.contains_key(*key));
        self.withdraw_keys(left.cloned().collect()).await
    }

    /// Resolves when the entries are gone, or must be taken for gone: the store said that the lease
    /// has ended, or has not answered for as long as the lease lives. Also when the registration is
    /// dropped.
    ///
    /// The future does not borrow the registration.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut lost = self.lost.clone();
        async move {
            // An error is a keeper that has ended, which renews nothing any more.
            let _ = lost.wait_for(|lost| *lost).await;
        }
    }

    /// Withdraws on purpose: marks every entry as draining, so that nobody takes the end for a
    /// death, then deletes it, then ends the lease.
    ///
    /// What a successor has put under its own lease is left alone. The caller bounds the time:
    /// dropped half-way, the rest ends with the lease.
    ///
    /// # Errors
    ///
    /// As the store's.
    pub async fn withdraw(mut self) -> Result<(), StoreError> {
        self.withdraw_keys(self.published.keys().cloned().collect()).await?;
        self.config.store.revoke(self.lease).await
    }

    /// Every draining put comes before the first deletion: it is what stops the requests.
    async fn withdraw_keys(&mut self, keys: Vec<Key>) -> Result<(), StoreError> {
        let store = &self.config.store;
        for key in &keys {
            if let Some(entry) = self.published.get_mut(key) {
                *entry = entry.clone().with_state(State::Draining);
                store.put_if_leased(key, entry.to_json(), self.lease).await?;
            }
        }
        for key in &keys {
            store.delete_if_leased(key, self.lease).await?;
            self.published.remove(key);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Renews a lease until it is lost, and says so.
async fn keep(
    store: Arc<dyn LeaseStore>,
    lease: Lease,
    granted: Instant,
    lost: watch::Sender<bool>,
) {
    let reason = renew_until_lost(&*store, lease, granted).await;
    warn!(lease = %lease.id, reason, "the lease is lost");
    lost.send_replace(true);
}

/// Renews a lease at a third of its time, and returns why that is over.
///
/// Its end is counted from the last *answer*: a renewal that was sent proves nothing.
async fn renew_until_lost(
    store: &dyn LeaseStore,
    Lease { id, mut ttl }: Lease,
    granted: Instant,
) -> &'static str {
    let mut deadline = granted + ttl;
    let mut next = granted + ttl / 3;
    let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        sleep_until(next.min(deadline)).await;
        let sent = Instant::now();
        if sent >= deadline {
            return "the store did not answer in time";
        }
        // One that hangs must leave time for others.
        let attempt = timeout_at(deadline.min(sent + ttl / 3), store.renew(id)).await;
        let now = Instant::now();
        match attempt {
            Ok(Ok(Some(left))) if !left.is_zero() => {
                ttl = left;
                deadline = now + ttl;
                // From when it was sent: who slept meanwhile asks again at once.
                next = sent + ttl / 3;
                retry.reset();
            }
            Ok(Ok(_)) => return "the store has ended it",
            Ok(Err(error)) => {
                debug!(lease = %id, error = %ErrorChain(&error), "not renewed");
                next = now + retry.wait();
            }
            Err(_) => {
                debug!(lease = %id, "the store does not answer");
                next = now + retry.wait();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use dynamo_namespace::EndpointId;
    use futures_util::StreamExt;
    use tokio::time::{advance, sleep, timeout};

    use super::*;
    use crate::kind::Kind;
    use crate::memory::MemoryStore;
    use crate::store::{Change, Cursor, MockLeaseStore, WatchItem, WatchStore};

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

    /// What happened since a revision: puts as `name state`, deletions as `-name`.
    async fn story(store: &MemoryStore, after: u64) -> Vec<String> {
        let after = Cursor { revision: crate::Revision(after), anchor: None };
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

        /// Renews, and keeps the answer to itself while silent: what was sent proves nothing.
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
            Registration::publish(config(store.clone()), vec![entry("b/c"), entry("a")])
                .await
                .unwrap();
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
            let registration =
                Registration::publish(config(store), vec![entry("a")]).await.unwrap();
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
            Registration::publish(config(store.clone()), vec![entry("a"), entry("b")])
                .await
                .unwrap();
        let lease = registration.lease;
        registration.withdraw().await.unwrap();
        assert_eq!(
            story(&store, 1).await,
            ["a serving", "b serving", "a draining", "b draining", "-a", "-b"]
        );
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
            Registration::publish(config(store.clone()), vec![entry("a"), entry("b")])
                .await
                .unwrap();
        store.set_available(false);
        registration.update(vec![entry("b"), entry("c")]).await.unwrap_err();
        store.set_available(true);
        registration.update(vec![entry("b"), entry("c")]).await.unwrap();
        assert_eq!(listed(&store).await.len(), 2);
        // What is wanted again after it was marked as draining serves again.
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
}
