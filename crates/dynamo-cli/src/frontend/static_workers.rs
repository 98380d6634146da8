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
use tokio::sync::{oneshot, watch};
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

/// The static workers of a frontend. They can be replaced while it runs.
pub(crate) struct StaticWorkers {
    store: MemoryStore,
    scope: NamespaceScope,
    config: FrontendConfig,
    kept: Vec<Kept>,
    /// How many there have been so far.
    begun: u64,
}

/// A worker that is kept on its shelf.
struct Kept {
    worker: StaticWorker,
    /// What is said of it; nothing once it goes.
    said: watch::Sender<Option<StaticWorker>>,
}

impl StaticWorkers {
    /// These workers, and the events about their models, for as long as the stream is polled.
    ///
    /// Each serves from its first answer on. The source has told what there is when every worker has
    /// answered, or after [`PATIENCE`]. Those that name no namespace belong to the frontend's own. Each is
    /// asked under the terms of its namespace: within its networks, and with its key.
    pub(crate) fn discover(
        workers: Vec<StaticWorker>,
        scope: NamespaceScope,
        config: &FrontendConfig,
    ) -> (Self, BoxStream<'static, DiscoveryEvent>) {
        let (store, config) = (MemoryStore::new(), config.clone());
        let watched = scope.clone();
        let mut this = Self { store: store.clone(), scope, config, kept: Vec::new(), begun: 0 };
        let reached: Vec<_> = workers.into_iter().map(|worker| this.begin(worker)).collect();
        let prefix = PREFIX.parse().unwrap_or_else(|_| unreachable!("the prefix ends in a slash"));
        let config = WatcherConfig::new(Arc::new(store.clone()))
            .with_network_prefix(prefix)
            .with_target_namespace(watched);
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
        (this, stream::unfold(told, async |mut told| Some((told.next().await, told))).boxed())
    }

    /// Takes up another list. A worker that is in both lists stays what it is, whatever else is said of
    /// it. One that is not in the new list is withdrawn, but not before each new one has answered, or
    /// for [`PATIENCE`]: a model that moves to another worker is never away.
    pub(crate) fn replace(&mut self, workers: Vec<StaticWorker>) {
        let mut before = std::mem::take(&mut self.kept);
        let mut reached = Vec::new();
        for worker in workers {
            let is_same = |kept: &Kept| kept.worker.is_same(&worker);
            match before.iter().position(is_same) {
                Some(place) => {
                    let mut kept = before.swap_remove(place);
                    if kept.worker != worker {
                        kept.said.send_replace(Some(worker.clone()));
                        kept.worker = worker;
                    }
                    self.kept.push(kept);
                }
                None => reached.push(self.begin(worker)),
            }
        }
        if before.is_empty() {
            return;
        }
        tokio::spawn(async move {
            // Those that do not answer are told of by themselves.
            let _ = timeout(PATIENCE, join_all(reached)).await;
            before.iter().for_each(|kept| drop(kept.said.send_replace(None)));
        });
    }

    /// Keeps a worker on a shelf of its own. The receiver ends when it has answered.
    fn begin(&mut self, worker: StaticWorker) -> oneshot::Receiver<()> {
        let namespace = worker.namespace.clone().unwrap_or_else(|| scope::home(&self.scope));
        let config = &self.config;
        let key = config.worker_key_of(&namespace);
        let engine = HttpEngine::new(worker.url.clone(), key, config.worker_tls().clone())
            .within(config.networks_of(&namespace), config.resolver().clone());
        let endpoint =
            EndpointId::new(namespace, names::BACKEND_COMPONENT, names::GENERATE_ENDPOINT)
                .unwrap_or_else(|_| unreachable!("both names are valid"));
        self.begun += 1;
        let shelf = Shelf {
            store: self.store.clone(),
            endpoint,
            instance: InstanceId(self.begun),
            worker: worker.clone(),
            created: unix_now(),
            entries: BTreeMap::new(),
        };
        let (first, answered) = oneshot::channel();
        let (said, heard) = watch::channel(Some(worker.clone()));
        self.kept.push(Kept { worker, said });
        tokio::spawn(keep(engine, shelf, heard, first));
        answered
    }
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

/// Keeps one worker's shelf equal to what is said of the worker and to its list of models, until the
/// worker goes. While the worker does not answer, the shelf keeps the last list.
async fn keep(
    engine: impl Engine,
    mut shelf: Shelf,
    mut said: watch::Receiver<Option<StaticWorker>>,
    first: oneshot::Sender<()>,
) {
    let url = shelf.worker.url.clone();
    let named = shelf.worker.model.clone().map(|name| {
        vec![ListedModel { name, context_length: None, is_adapter: false, accepts: Accepts::NONE }]
    });
    let mut asking = Asking {
        // One whose model is named is not asked.
        engine: named.is_none().then_some(engine),
        next: Instant::now(),
        has_answered: false,
        is_told: false,
    };
    let mut first = Some(first);
    let mut models = named.unwrap_or_default();
    loop {
        if asking.engine.is_none() || asking.has_answered {
            shelf.put(&models);
            drop(first.take());
        }
        tokio::select! {
            Ok(()) = said.changed() => {
                let Some(worker) = said.borrow_and_update().clone() else {
                    shelf.put(&[]);
                    return;
                };
                shelf.worker = worker;
            }
            listed = asking.next() => match listed {
                Ok(listed) => {
                    if first.is_some() || listed != models {
                        info!(%url, models = listed.len(), "a static worker lists its models");
                    }
                    models = listed;
                }
                Err(why) => warn!(why, "a static worker does not list its models; asking again"),
            },
        }
    }
}

/// A worker that is asked for its models, time after time.
struct Asking<E> {
    /// None: nobody is asked.
    engine: Option<E>,
    /// When it is asked next.
    next: Instant,
    has_answered: bool,
    /// Whether it was told that it does not answer.
    is_told: bool,
}

impl<E: Engine> Asking<E> {
    /// The models when they are listed next, or why they are not, once until they are. Nothing is lost
    /// when this is dropped.
    async fn next(&mut self) -> Result<Vec<ListedModel>, String> {
        let Some(engine) = &self.engine else { return std::future::pending().await };
        loop {
            sleep_until(self.next).await;
            let began = Instant::now();
            let listed = engine.models().await;
            self.has_answered |= listed.is_ok();
            self.next = began + if self.has_answered { INTERVAL } else { FIRST_INTERVAL };
            let was_told = std::mem::replace(&mut self.is_told, listed.is_err());
            if listed.is_ok() || !was_told {
                return listed;
            }
        }
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
        let (_said, heard) = watch::channel(None);
        tokio::spawn(keep(engine.clone(), shelf(&store, "http://h:1"), heard, first));
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
        let (first, answered) = oneshot::channel();
        let worker = "Qwen/Q=http://h:1;kinds=embedding";
        let (said, heard) = watch::channel(Some(worker.parse().unwrap()));
        let kept = tokio::spawn(keep(engine, shelf(&store, worker), heard, first));
        let _ = answered.await;
        assert_eq!(names(&store).await, ["Qwen/Q"]);
        said.send_replace(None);
        kept.await.unwrap();
        assert!(names(&store).await.is_empty());
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
        StaticWorkers::discover(workers, scope, config).1
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

    /// What the events have made of the models: the name and the kinds of each by its key.
    type Live = BTreeMap<String, (String, String)>;

    /// Follows the events until they have made the models so. After each of them, `always` holds.
    async fn until(
        events: &mut BoxStream<'static, DiscoveryEvent>,
        live: &mut Live,
        always: impl Fn(&Live) -> bool,
        is_so: impl Fn(&Live) -> bool,
    ) {
        use dynamo_discovery::ModelUpdate::{Added, Changed, Removed};
        let followed = async {
            while !is_so(live) {
                let Some(DiscoveryEvent::Batch(batch)) = events.next().await else { continue };
                for update in batch.updates {
                    match update {
                        Added(new) | Changed { new, .. } => {
                            let said = (new.model().to_owned(), new.kinds().to_string());
                            live.insert(new.key().to_string(), said)
                        }
                        Removed(old, _) => live.remove(&old.key().to_string()),
                    };
                }
                assert!(always(live), "{live:?}");
            }
        };
        timeout(Duration::from_secs(60), followed).await.expect("in time");
    }

    #[tokio::test]
    async fn of_another_list_those_of_both_stay_what_they_are_and_the_others_come_before_they_go() {
        let old = crate::echo::tests::serve(&["m"]).await;
        let new = crate::echo::tests::serve(&["m"]).await;
        let parsed = |workers: &[&str]| workers.iter().map(|one| one.parse().unwrap()).collect();
        let scope = NamespaceScope::Only("team-a".parse().unwrap());
        let first = parsed(&["stays=http://h:1", old.as_str()]);
        let (mut workers, mut events) =
            StaticWorkers::discover(first, scope, &FrontendConfig::default());
        let mut live = Live::new();
        until(&mut events, &mut live, |_| true, |live| live.len() == 2).await;
        let before = live.clone();
        let has = |live: &Live, name: &str| live.values().any(|(model, _)| model == name);

        workers.replace(parsed(&[new.as_str(), "stays=http://h:1;kinds=embedding"]));
        let both = |live: &Live| has(live, "m") && has(live, "stays");
        let embeds = |live: &Live| live.values().any(|(_, kinds)| kinds == "Embedding");
        until(&mut events, &mut live, both, |live| {
            let stay = |key: &&String| before.contains_key(*key);
            embeds(live) && live.len() == 2 && live.keys().filter(stay).count() == 1
        })
        .await;
        let stays = before.iter().find(|(_, (model, _))| model == "stays").unwrap().0;
        assert!(live.contains_key(stays), "it is the same instance");

        workers.replace(Vec::new());
        until(&mut events, &mut live, |_| true, Live::is_empty).await;
    }
}
