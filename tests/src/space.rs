//! A part of an etcd that one test has for itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{
    EtcdConfig, EtcdStore, InstanceId, Key, LeaseId, LeaseStore as _, MODEL_ROOT_PATH, ModelEntry,
    NetworkPrefix, Registration, RegistrationConfig, Revision, Snapshot, StoreError,
    WatchStore as _, WatcherConfig,
};
use dynamo_namespace::NamespaceScope;
use tokio::time::{Instant, sleep};

use crate::wait::DEADLINE;
use crate::{Engine, Etcd, Frontend, SharedEtcd, create_test_model_entry, soon};

/// The time of the leases of tests. The entries of a test end with its lease, also in an etcd that
/// outlives the tests. The time is longer than a test takes, and longer than a machine stalls.
const TTL: Duration = Duration::from_secs(300);

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    format!("{what}-{:016x}", fastrand::u64(..))
}

/// A root in an etcd, and the entries under it.
pub struct Space {
    store: Arc<EtcdStore>,
    root: NetworkPrefix,
    lease: LeaseId,
    /// The shared etcd, which lives for at least as long as the space.
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

    /// The root that the programs use, in a cluster with these endpoints.
    pub async fn at(endpoints: &str) -> Self {
        Self::open(endpoints, NetworkPrefix::default()).await
    }

    /// The root that the programs use, in the etcd of this configuration.
    pub async fn by(config: EtcdConfig) -> Self {
        let store = Arc::new(EtcdStore::new(config).unwrap());
        Self::through(store, NetworkPrefix::default()).await
    }

    async fn open(endpoints: &str, root: NetworkPrefix) -> Self {
        Self::through(store_at(endpoints), root).await
    }

    async fn through(store: Arc<EtcdStore>, root: NetworkPrefix) -> Self {
        let lease = patiently("a lease", async || store.grant(TTL).await).await.id;
        Self { store, root, lease, _shared: None }
    }

    /// The prefix of each key in the space.
    pub fn root(&self) -> &str {
        self.root.as_str()
    }

    /// The configuration that discovers one namespace of the space, or all.
    pub fn watch(&self, target_namespace: &str) -> WatcherConfig {
        self.watch_by(self.store.clone(), target_namespace)
    }

    /// The same configuration, with another endpoint of the store.
    pub fn watch_over(&self, endpoint: &str, target_namespace: &str) -> WatcherConfig {
        self.watch_by(store_at(endpoint), target_namespace)
    }

    /// The same configuration, with another configuration of the store.
    pub fn watch_with(&self, config: EtcdConfig, target_namespace: &str) -> WatcherConfig {
        self.watch_by(Arc::new(EtcdStore::new(config).unwrap()), target_namespace)
    }

    fn watch_by(&self, store: Arc<EtcdStore>, target_namespace: &str) -> WatcherConfig {
        let scope = NamespaceScope::from_target(Some(target_namespace)).unwrap();
        WatcherConfig::new(store)
            .with_network_prefix(self.root.clone())
            .with_target_namespace(scope)
    }

    /// A front door for a namespace, which is ready.
    pub async fn frontend(&self, target_namespace: &str) -> Frontend {
        Frontend::start(self.watch(target_namespace)).await.ready().await
    }

    /// Puts a key below the root, as any script can.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) {
        let (key, value) = (self.key(key), value.into());
        patiently("a put", async || self.store.put(&key, value.clone(), self.lease).await).await;
    }

    /// Deletes a key below the root.
    pub async fn delete(&self, key: &str) {
        assert!(self.store.delete_if_leased(&self.key(key), self.lease).await.unwrap(), "{key}");
    }

    fn key(&self, below: &str) -> Key {
        format!("{}{below}", self.root).into()
    }

    /// All entries of the space, read linearizably.
    pub async fn list(&self) -> Snapshot {
        let range = self.root.range();
        patiently("a list", async || self.store.list(&range).await).await
    }

    /// The store's revision.
    pub async fn revision(&self) -> Revision {
        self.list().await.revision
    }

    /// Publishes entries, as a worker does.
    pub async fn register(&self, entries: Vec<ModelEntry>) -> Registration {
        self.register_for(TTL, entries).await
    }

    /// Publishes entries, under a lease with this time.
    pub async fn register_for(&self, ttl: Duration, entries: Vec<ModelEntry>) -> Registration {
        let config = RegistrationConfig::new(self.store.clone())
            .with_network_prefix(self.root.clone())
            .with_instance(InstanceId::random())
            .with_ttl(ttl);
        patiently("a registration", async || {
            Registration::publish(config.clone(), entries.clone()).await
        })
        .await
    }

    /// A registered engine with one model for chats. The engine's name is the model's.
    pub async fn worker(&self, namespace: &str, model: &str) -> Worker {
        self.worker_of(namespace, model, "Chat", model).await
    }

    /// A registered engine with these kinds, and a name of its own.
    pub async fn worker_of(
        &self,
        namespace: &str,
        model: &str,
        kinds: &str,
        engine: &str,
    ) -> Worker {
        let engine = Engine::start(engine).await;
        let entry = create_test_model_entry(model, namespace, "backend", "generate", kinds)
            .with_url(engine.url().parse().unwrap())
            .with_control(engine.url().parse().unwrap());
        let registration = self.register(vec![entry.clone()]).await;
        Worker { engine, entry, registration }
    }
}

/// A registered engine. If it is dropped, its entry stays for a long time, as after a SIGKILL.
pub struct Worker {
    /// The server.
    pub engine: Engine,
    /// The registered entry.
    pub entry: ModelEntry,
    /// The registration of the entry.
    pub registration: Registration,
}

impl Worker {
    /// Withdraws the entry; the engine goes on.
    pub async fn leave(self) -> Engine {
        self.registration.withdraw().await.unwrap();
        self.engine
    }
}

/// Asks the store again while it does not answer in time: a slow disk is none of the test's faults.
async fn patiently<T>(what: &str, ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let began = Instant::now();
    loop {
        match soon(what, ask()).await {
            Err(StoreError::Unavailable(_)) if began.elapsed() < DEADLINE => {
                sleep(Duration::from_millis(50)).await;
            }
            answer => return answer.unwrap_or_else(|error| panic!("{what}: {error:?}")),
        }
    }
}

fn store_at(endpoints: &str) -> Arc<EtcdStore> {
    let config = EtcdConfig::new(endpoints.split(',').map(str::trim));
    Arc::new(EtcdStore::new(config).unwrap())
}
