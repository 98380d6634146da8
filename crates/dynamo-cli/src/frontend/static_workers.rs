//! Workers that need no registration: the frontend reads their models from their `/v1/models`.
//!
//! The entries of static workers pass through a store, a watcher and its catalog, as all entries;
//! the store is the memory of this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{
    Accepts, DiscoveryBatch, DiscoveryEvent, InstanceId, MemoryStore, ModelEntry, ModelKey,
    ModelWatcher, Revision, State, WatcherConfig,
};
use dynamo_http::FrontendConfig;
use dynamo_namespace::{EndpointId, NamespaceScope, names};
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::echo::unix_now;
use crate::engine::{Engine, HttpEngine, ListedModel};
use crate::settings::scope;
use crate::settings::static_worker::StaticWorker;

/// The root of the keys. It differs from etcd's root, so no key is in both stores.
const PREFIX: &str = "static/";
/// The interval between two reads of a worker's list of models.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same interval, until the worker has answered once.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// How long the frontend is not ready over a worker that has never answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// The events about the models of static workers, for as long as the stream is polled.
///
/// Each serves from its first answer on. The source has told what there is when every worker has
/// answered, or after [`PATIENCE`]. Those that name no namespace belong to the frontend's own. Each is
/// asked under the terms of its namespace: within its networks, and with its key.
pub(crate) fn discover(
    workers: Vec<StaticWorker>,
    scope: NamespaceScope,
    config: &FrontendConfig,
) -> BoxStream<'static, DiscoveryEvent> {
    let store = MemoryStore::new();
    let mut reached = Vec::new();
    for (worker, id) in workers.into_iter().zip(1..) {
        let namespace = worker.namespace.clone().unwrap_or_else(|| scope::home(&scope));
        let key = config.worker_key_of(&namespace);
        let engine = HttpEngine::new(worker.url.clone(), key, config.worker_tls().clone())
            .within(config.networks_of(&namespace), config.resolver().clone());
        let endpoint =
            EndpointId::new(namespace, names::BACKEND_COMPONENT, names::GENERATE_ENDPOINT)
                .unwrap_or_else(|_| unreachable!("both names are valid"));
        let shelf = Shelf {
            store: store.clone(),
            endpoint,
            instance: InstanceId(id),
            worker,
            created: unix_now(),
            entries: BTreeMap::new(),
        };
        let (first, answered) = oneshot::channel();
        reached.push(answered);
        tokio::spawn(keep(engine, shelf, first));
    }
    let prefix = PREFIX.parse().unwrap_or_else(|_| unreachable!("the prefix ends in a slash"));
    let config = WatcherConfig::new(Arc::new(store.clone()))
        .with_network_prefix(prefix)
        .with_target_namespace(scope);
    let watcher = ModelWatcher::new(config)
        .unwrap_or_else(|_| unreachable!("only a narrowed watch can be refused"));
    let all_answered = async {
        if timeout(PATIENCE, join_all(reached)).await.is_err() {
            warn!("a static worker has not answered yet: those that have serve without it");
        }
    };
    let told = Told {
        watcher,
        store,
        all_answered: Some(all_answered.boxed()),
        all: None,
        applied: Revision::default(),
    };
    stream::unfold(told, async |mut told| Some((told.next().await, told))).boxed()
}

/// What is told of static workers. That it is all is told once they have answered, and not with the
/// list of a store into which they put their models later.
struct Told {
    watcher: ModelWatcher,
    store: MemoryStore,
    /// Until it is over.
    all_answered: Option<BoxFuture<'static, ()>>,
    /// From this revision on, all is told that the workers have answered.
    all: Option<Revision>,
    applied: Revision,
}

impl Told {
    async fn next(&mut self) -> DiscoveryEvent {
        loop {
            if self.all.is_some_and(|all| self.applied >= all) {
                self.all = None;
                let mut end = DiscoveryBatch::default();
                (end.resync, end.revision) = (true, self.applied);
                return DiscoveryEvent::Batch(end);
            }
            let answered = async {
                match &mut self.all_answered {
                    Some(answered) => answered.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = answered => {
                    self.all_answered = None;
                    self.all = Some(self.store.revision());
                }
                mut event = self.watcher.next() => {
                    if let DiscoveryEvent::Batch(batch) = &mut event {
                        self.applied = batch.revision;
                        batch.resync = false;
                    }
                    return event;
                }
            }
        }
    }
}

/// Keeps one worker's shelf equal to the worker's list of models. While the worker does not answer,
/// the shelf keeps the last list.
async fn keep(engine: impl Engine, mut shelf: Shelf, first: oneshot::Sender<()>) {
    let url = shelf.worker.url.clone();
    if let Some(name) = shelf.worker.model.clone() {
        let accepts = Accepts::NONE;
        shelf.put(&[ListedModel { name, context_length: None, is_adapter: false, accepts }]);
        return;
    }
    let mut first = Some(first);
    let (mut answered, mut told) = (false, false);
    loop {
        let began = Instant::now();
        match engine.models().await {
            Ok(models) => {
                if shelf.put(&models) || !answered {
                    info!(%url, models = models.len(), "a static worker lists its models");
                }
                (answered, told) = (true, false);
            }
            Err(why) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(why, "a static worker does not list its models; asking again");
                }
            }
        }
        if answered {
            drop(first.take());
        }
        sleep_until(began + if answered { INTERVAL } else { FIRST_INTERVAL }).await;
    }
}

/// One worker's entries in the store.
struct Shelf {
    store: MemoryStore,
    endpoint: EndpointId,
    instance: InstanceId,
    worker: StaticWorker,
    created: u64,
    entries: BTreeMap<String, Bytes>,
}

impl Shelf {
    /// Replaces the entries by those of these models; returns whether an entry changed.
    fn put(&mut self, models: &[ListedModel]) -> bool {
        let wanted: BTreeMap<_, _> = models.iter().filter_map(|model| self.entry(model)).collect();
        for (key, value) in &wanted {
            if self.entries.get(key) != Some(value) {
                self.store.put_unleased(key.as_str(), value.clone());
            }
        }
        for (key, value) in self.entries.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            // A put as `draining` comes before the delete, as a worker withdraws. Otherwise the
            // frontend would hold the instance as one that the store has lost.
            if let Ok(entry) = ModelEntry::from_json(value) {
                self.store.put_unleased(key.as_str(), entry.with_state(State::Draining).to_json());
            }
            self.store.delete(key.as_str());
        }
        let changed = wanted != self.entries;
        self.entries = wanted;
        changed
    }

    fn entry(&self, model: &ListedModel) -> Option<(String, Bytes)> {
        let key = ModelKey::Native {
            endpoint: self.endpoint.clone(),
            instance: self.instance,
            model: model.name.clone(),
        };
        // `HttpEngine` and the settings have checked names and kinds.
        let entry = ModelEntry::new(&model.name, self.endpoint.clone(), self.worker.kinds).ok()?;
        let entry = entry
            .with_url(self.worker.url.clone())
            .with_created(self.created)
            .with_accepts(self.worker.accepts.unwrap_or(model.accepts));
        let entry = match model.context_length {
            Some(context_length) => entry.with_context_length(context_length),
            None => entry,
        };
        Some((format!("{PREFIX}{key}"), entry.to_json()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use dynamo_discovery::{KeyRange, WatchStore as _};
    use tokio::time::sleep;

    use super::*;
    use crate::engine::Probe;

    /// An engine that lists what it is told to.
    #[derive(Clone)]
    struct Fake(Arc<Mutex<Result<Vec<ListedModel>, String>>>);

    impl Fake {
        fn lists(&self, names: &[&str]) {
            let listed = |name: &&str| ListedModel {
                name: (*name).into(),
                context_length: Some(8),
                is_adapter: false,
                accepts: Accepts::NONE,
            };
            *self.0.lock().unwrap() = Ok(names.iter().map(listed).collect());
        }

        fn fails(&self) {
            *self.0.lock().unwrap() = Err("connection refused".into());
        }
    }

    impl Engine for Fake {
        async fn probe(&self) -> Probe {
            unreachable!("static workers are not probed")
        }

        async fn models(&self) -> Result<Vec<ListedModel>, String> {
            self.0.lock().unwrap().clone()
        }
    }

    fn shelf(store: &MemoryStore, worker: &str) -> Shelf {
        Shelf {
            store: store.clone(),
            endpoint: "a.backend.generate".parse().unwrap(),
            instance: InstanceId(1),
            worker: worker.parse().unwrap(),
            created: 1,
            entries: BTreeMap::new(),
        }
    }

    async fn names(store: &MemoryStore) -> Vec<String> {
        let snapshot = store.list(&KeyRange::prefix(PREFIX)).await.unwrap();
        let name = |value: &[u8]| ModelEntry::from_json(value).unwrap().name().to_owned();
        snapshot.entries.iter().map(|entry| name(&entry.value)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn models_come_and_go_with_the_list_and_stand_while_it_cannot_be_read() {
        let store = MemoryStore::new();
        let engine = Fake(Arc::new(Mutex::new(Err("connection refused".into()))));
        let (first, mut answered) = oneshot::channel();
        tokio::spawn(keep(engine.clone(), shelf(&store, "http://h:1"), first));
        sleep(FIRST_INTERVAL * 2).await;
        assert!(names(&store).await.is_empty());
        assert_eq!(answered.try_recv(), Err(oneshot::error::TryRecvError::Empty));

        engine.lists(&["a", "b"]);
        let _ = answered.await;
        assert_eq!(names(&store).await, ["a", "b"]);
        engine.lists(&["b"]);
        sleep(INTERVAL * 2).await;
        assert_eq!(names(&store).await, ["b"]);
        engine.fails();
        sleep(INTERVAL * 10).await;
        assert_eq!(names(&store).await, ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_model_is_there_without_asking() {
        let store = MemoryStore::new();
        let engine = Fake(Arc::new(Mutex::new(Ok(vec![]))));
        let (first, _) = oneshot::channel();
        keep(engine, shelf(&store, "Qwen/Q=http://h:1;kinds=embedding"), first).await;
        assert_eq!(names(&store).await, ["Qwen/Q"]);
    }

    /// The models that come with the next batches, until one says that these are all.
    async fn told(events: &mut BoxStream<'static, DiscoveryEvent>) -> Vec<(String, String)> {
        let mut added = Vec::new();
        loop {
            let event = timeout(Duration::from_secs(60), events.next()).await.expect("in time");
            let Some(DiscoveryEvent::Batch(batch)) = event else {
                assert!(event.is_some(), "it never ends");
                continue;
            };
            added.extend(batch.updates.iter().map(|update| match update {
                dynamo_discovery::ModelUpdate::Added(new) => {
                    (new.model().to_owned(), new.endpoint().to_string())
                }
                other => panic!("{other:?}"),
            }));
            if batch.resync {
                added.sort();
                return added;
            }
        }
    }

    fn discover_these(workers: &[&str]) -> BoxStream<'static, DiscoveryEvent> {
        discover_with(workers, &FrontendConfig::default())
    }

    fn discover_with(
        workers: &[&str],
        config: &FrontendConfig,
    ) -> BoxStream<'static, DiscoveryEvent> {
        let workers = workers.iter().map(|worker| worker.parse().unwrap()).collect();
        let scope = NamespaceScope::Generations("team-a".parse().unwrap());
        discover(workers, scope, config)
    }

    #[tokio::test]
    async fn a_static_worker_outside_of_its_namespaces_networks_is_not_asked() {
        let inside = crate::echo::tests::serve(&["inside"]).await;
        let elsewhere = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let outside = format!("http://{}", elsewhere.local_addr().unwrap());
        let networks = vec!["127.0.0.1".parse().unwrap()];
        let config = FrontendConfig::new()
            .with_namespace_networks([("team-a".parse().unwrap(), networks)].into());
        let mut events = discover_with(&[inside.as_str(), &outside], &config);
        let models: Vec<_> = told(&mut events).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(models, ["inside"]);
        let asked = timeout(Duration::from_millis(50), elsewhere.accept()).await;
        assert!(asked.is_err(), "nobody connected");
    }

    #[tokio::test]
    async fn the_source_has_told_all_when_every_worker_has_answered() {
        let worker = crate::echo::tests::serve(&["m"]).await;
        let elsewhere = "late=http://h:1;namespace=team-a-0f3c9a1b";
        let mut events = discover_these(&[worker.as_str(), "named=http://h:1", elsewhere]);
        let model =
            |name: &str, namespace| (name.to_owned(), format!("{namespace}.backend.generate"));
        assert_eq!(
            told(&mut events).await,
            [model("late", "team-a-0f3c9a1b"), model("m", "team-a"), model("named", "team-a")]
        );
    }

    #[tokio::test]
    async fn a_worker_that_never_answers_delays_no_other_one_and_readiness_for_a_time_only() {
        let worker = crate::echo::tests::serve(&["m"]).await;
        // Accepted by the kernel, and never answered.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mute = format!("http://{}", mute.local_addr().unwrap());
        let mut events = discover_these(&[worker.as_str(), &mute]);
        let served = loop {
            let event = timeout(Duration::from_secs(60), events.next()).await.expect("in time");
            if let Some(DiscoveryEvent::Batch(batch)) = event {
                assert!(!batch.resync, "the frontend is not ready before the model is served");
                if !batch.updates.is_empty() {
                    break batch.updates.len();
                }
            }
        };
        assert_eq!(served, 1);
        assert_eq!(told(&mut events).await, []);
    }
}
