//! Store, watcher, catalog and switchboard as a frontend has them, with a record of every
//! publication.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dynamo_discovery::{
    Cursor, DiscoveryBatch, DiscoveryEvent, KeyRange, Kind, Kinds, MemoryStore, ModelWatcher,
    Snapshot, StoreError, WatchItem, WatchStore,
};
use dynamo_http::{RouteChange, Switchboard, SwitchboardWriter, View, update_http_endpoints};
use dynamo_namespace::NamespaceScope;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::time::timeout;

/// What goes wrong with one call.
pub enum Fault {
    /// It is refused with this.
    Fails(StoreError),
    /// It never answers; a watch begins, and is silent.
    Hangs,
    /// This happens at the store before it answers.
    Meanwhile(Box<dyn Fn(&MemoryStore) + Send>),
}

/// A memory store whose next calls go wrong as the test says.
#[derive(Clone)]
pub struct Faulty {
    pub store: MemoryStore,
    pub lists: Arc<Mutex<VecDeque<Fault>>>,
    pub watches: Arc<Mutex<VecDeque<Fault>>>,
}

impl Faulty {
    pub fn new(store: MemoryStore) -> Self {
        Self { store, lists: Arc::default(), watches: Arc::default() }
    }

    pub fn list_fault(&self, fault: Fault) {
        self.lists.lock().unwrap().push_back(fault);
    }

    pub fn watch_fault(&self, fault: Fault) {
        self.watches.lock().unwrap().push_back(fault);
    }
}

#[async_trait]
impl WatchStore for Faulty {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        let fault = self.lists.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Fails(error)) => return Err(error),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Meanwhile(happens)) => happens(&self.store),
            None => {}
        }
        self.store.list(range).await
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        let fault = self.watches.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Fails(error)) => return Err(error),
            Some(Fault::Hangs) => return Ok(stream::pending().boxed()),
            Some(Fault::Meanwhile(happens)) => happens(&self.store),
            None => {}
        }
        self.store.watch(range, after).await
    }
}

/// One publication.
pub struct Published {
    pub batch: DiscoveryBatch,
    pub view: Arc<View>,
    pub changes: Vec<RouteChange>,
}

/// A frontend's discovery, driven by the test.
pub struct Chain {
    pub store: MemoryStore,
    pub watcher: ModelWatcher,
    writer: SwitchboardWriter,
    switchboard: Switchboard,
    scope: NamespaceScope,
    /// Everything that was published so far.
    pub published: Vec<Published>,
    /// How often the store was said to be away.
    pub outages: usize,
}

impl Chain {
    /// One for team-a that knows what there is.
    pub async fn over(faulty: &Faulty) -> Self {
        let watcher = ModelWatcher::watch(Arc::new(faulty.clone()), Some("team-a")).unwrap();
        let scope = NamespaceScope::from_target(Some("team-a")).unwrap();
        let (switchboard, writer) = Switchboard::new([scope.clone()]);
        let store = faulty.store.clone();
        let (published, outages) = (Vec::new(), 0);
        let mut chain = Self { store, watcher, writer, switchboard, scope, published, outages };
        chain.settle().await;
        chain
    }

    /// Takes the next event, as the feed does.
    pub async fn step(&mut self) {
        match self.watcher.next().await {
            DiscoveryEvent::Batch(batch) => {
                let changes = update_http_endpoints(&mut self.writer, &batch.updates);
                let view = self.switchboard.view(&self.scope);
                self.published.push(Published { batch, view, changes });
            }
            DiscoveryEvent::Disconnected | DiscoveryEvent::Denied => self.outages += 1,
            _ => {}
        }
    }

    /// Goes on until all that the store has is published.
    pub async fn settle(&mut self) {
        let settled = async {
            while self
                .published
                .last()
                .is_none_or(|last| last.batch.revision < self.store.revision())
            {
                self.step().await;
            }
        };
        timeout(Duration::from_secs(90), settled).await.expect("it settles");
    }

    /// Goes on for this long.
    pub async fn run_for(&mut self, time: Duration) {
        let _ = timeout(time, async {
            loop {
                self.step().await;
            }
        })
        .await;
    }

    pub fn view(&self) -> Arc<View> {
        self.switchboard.view(&self.scope)
    }

    /// The models that are listed now.
    pub fn models(&self) -> Vec<String> {
        models(&self.view())
    }

    /// How often everything was listed again.
    pub fn resyncs(&self) -> usize {
        self.published.iter().filter(|published| published.batch.resync).count() - 1
    }

    /// **L**, **G**: the view has the models of these entries, and no others. **M**: the applied
    /// revision never went back.
    #[track_caller]
    pub fn holds(&self, models: &[&str]) {
        assert_eq!(self.models(), models);
        let revisions = self.published.iter().map(|published| published.batch.revision);
        assert!(revisions.is_sorted(), "the applied revision went back");
    }

    /// **S**: since this publication the model was always listed, and no route closed.
    #[track_caller]
    pub fn kept_serving(&self, since: usize, model: &str) {
        for published in &self.published[since..] {
            assert!(published.view.model(model).is_some(), "{model} at {:?}", published.batch);
            assert!(published.view.is_open(Kind::Chat));
            let closed: Vec<_> = published.changes.iter().filter(|change| !change.open).collect();
            assert!(closed.is_empty(), "{closed:?}");
        }
    }
}

pub fn models(view: &View) -> Vec<String> {
    view.models().map(|model| model.name().to_owned()).collect()
}

/// The key of one of team-a's workers.
pub fn native(instance: usize, model: &str) -> String {
    format!("models/team-a/backend/generate/{instance:x}/{model}")
}

/// A value, with more fields of our own choice.
pub fn value(namespace: &str, model: &str, kinds: &str, fields: &str) -> String {
    format!(
        r#"{{"name":"{model}","endpoint":{{"namespace":"{namespace}","component":"backend","name":"generate"}},"model_type":"{kinds}"{fields}}}"#
    )
}

/// A value that chats.
pub fn chat(model: &str) -> String {
    value("team-a", model, "Chat", "")
}

pub fn kinds(view: &View) -> Kinds {
    view.open_kinds()
}
