//! A part of an etcd that one test has for itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{
    EtcdConfig, EtcdStore, Key, LeaseId, LeaseStore as _, MODEL_ROOT_PATH, ModelEntry,
    NetworkPrefix, Registration, RegistrationConfig, Revision, Snapshot, WatchStore as _,
    WatcherConfig,
};
use dynamo_namespace::NamespaceScope;

use crate::{Engine, Etcd, Frontend, SharedEtcd, create_test_model_entry};

/// What a test writes ends by itself, also in an etcd that outlives the tests. Longer than any test
/// takes, and than any machine stalls.
const TTL: Duration = Duration::from_secs(300);

/// A name that no other test has.
#[must_use]
pub fn unique(what: &str) -> String {
    format!("{what}-{:016x}", fastrand::u64(..))
}

/// A root in an etcd, and what is put under it.
pub struct Space {
    store: Arc<EtcdStore>,
    root: NetworkPrefix,
    lease: LeaseId,
    /// Whose end it must not see.
    _shared: Option<SharedEtcd>,
}

impl Space {
    /// A root of its own in the etcd that all tests share.
    pub async fn new() -> Self {
        let etcd = SharedEtcd::find().await;
        let root = format!("{}/{MODEL_ROOT_PATH}", unique("test")).parse().unwrap();
        Self { _shared: Some(etcd.clone()), ..Self::open(etcd.endpoints(), root).await }
    }

    /// The root that the programs use, in an etcd that the test has for itself.
    pub async fn of(etcd: &Etcd) -> Self {
        Self::open(etcd.endpoint(), NetworkPrefix::default()).await
    }

    /// The same in a cluster, by these endpoints.
    pub async fn at(endpoints: &str) -> Self {
        Self::open(endpoints, NetworkPrefix::default()).await
    }

    /// The same, by a configuration of its own.
    pub async fn by(config: EtcdConfig) -> Self {
        let store = Arc::new(EtcdStore::new(config).unwrap());
        Self::through(store, NetworkPrefix::default()).await
    }

    async fn open(endpoints: &str, root: NetworkPrefix) -> Self {
        Self::through(store_at(endpoints), root).await
    }

    async fn through(store: Arc<EtcdStore>, root: NetworkPrefix) -> Self {
        let lease = store.grant(TTL).await.unwrap().id;
        Self { store, root, lease, _shared: None }
    }

    /// What every key of it begins with.
    #[must_use]
    pub fn root(&self) -> &str {
        self.root.as_str()
    }

    /// The configuration that discovers a namespace of it, or all.
    #[must_use]
    pub fn watch(&self, target_namespace: &str) -> WatcherConfig {
        self.watch_by(self.store.clone(), target_namespace)
    }

    /// The same, where the store is reached at another endpoint.
    #[must_use]
    pub fn watch_over(&self, endpoint: &str, target_namespace: &str) -> WatcherConfig {
        self.watch_by(store_at(endpoint), target_namespace)
    }

    /// The same, where the store is reached by a configuration of its own.
    #[must_use]
    pub fn watch_with(&self, config: EtcdConfig, target_namespace: &str) -> WatcherConfig {
        self.watch_by(Arc::new(EtcdStore::new(config).unwrap()), target_namespace)
    }

    fn watch_by(&self, store: Arc<EtcdStore>, target_namespace: &str) -> WatcherConfig {
        let scope = NamespaceScope::from_target(Some(target_namespace)).unwrap();
        WatcherConfig::new(store)
            .with_network_prefix(self.root.clone())
            .with_target_namespace(scope)
    }

    /// A front door for a namespace, which knows what there is.
    pub async fn frontend(&self, target_namespace: &str) -> Frontend {
        Frontend::start(self.watch(target_namespace)).await.ready().await
    }

    /// Puts a key below the root, as any script can.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) {
        self.store.put(&self.key(key), value.into(), self.lease).await.unwrap();
    }

    /// Deletes what was put so.
    pub async fn delete(&self, key: &str) {
        assert!(self.store.delete_if_leased(&self.key(key), self.lease).await.unwrap(), "{key}");
    }

    fn key(&self, below: &str) -> Key {
        format!("{}{below}", self.root).into()
    }

    /// All that is in it, read linearizably.
    pub async fn list(&self) -> Snapshot {
        self.store.list(&self.root.range()).await.unwrap()
    }

    /// The store's revision.
    pub async fn revision(&self) -> Revision {
        self.list().await.revision
    }

    /// Publishes entries, as a worker does.
    pub async fn register(&self, entries: Vec<ModelEntry>) -> Registration {
        self.register_for(TTL, entries).await
    }

    /// The same, under a lease that lives as long as this.
    pub async fn register_for(&self, ttl: Duration, entries: Vec<ModelEntry>) -> Registration {
        let config = RegistrationConfig::new(self.store.clone())
            .with_network_prefix(self.root.clone())
            .with_ttl(ttl);
        Registration::publish(config, entries).await.unwrap()
    }

    /// An engine with one model that chats, registered. It goes by the name of the model.
    pub async fn worker(&self, namespace: &str, model: &str) -> Worker {
        self.worker_of(namespace, model, "Chat", model).await
    }

    /// The same, with kinds and a name of its own.
    pub async fn worker_of(
        &self,
        namespace: &str,
        model: &str,
        kinds: &str,
        engine: &str,
    ) -> Worker {
        let engine = Engine::start(engine).await;
        let entry = create_test_model_entry(model, namespace, "backend", "generate", kinds)
            .with_url(engine.url().parse().unwrap());
        let registration = self.register(vec![entry.clone()]).await;
        Worker { engine, entry, registration }
    }
}

/// An engine that is registered. Dropped, it stays so for a long time, as after a SIGKILL.
pub struct Worker {
    /// What answers.
    pub engine: Engine,
    /// What is registered.
    pub entry: ModelEntry,
    /// Its registration.
    pub registration: Registration,
}

impl Worker {
    /// Leaves on purpose; the engine goes on.
    pub async fn leave(self) -> Engine {
        self.registration.withdraw().await.unwrap();
        self.engine
    }
}

fn store_at(endpoints: &str) -> Arc<EtcdStore> {
    let config = EtcdConfig::new(endpoints.split(',').map(str::trim));
    Arc::new(EtcdStore::new(config).unwrap())
}
