//! What happened at the store, as etcd's own client saw it, and as ours did over a bad network.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_discovery::{
    Change, Cursor, Entry, EtcdStore, Key, KeyRange, MODEL_ROOT_PATH, Revision, Snapshot,
    StoreError, WatchItem, WatchStore as _,
};
use etcd_client::{EventType, GetOptions, WatchOptions};
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use crate::operator;

/// A key, with the revision of what was put, or nothing for its end.
type Told = (Key, Option<u64>);

/// One store's life, from a list on.
#[derive(Debug, Default)]
pub struct History {
    first: u64,
    entries: BTreeMap<Key, u64>,
    /// What each revision changed.
    changes: BTreeMap<u64, Vec<Told>>,
    /// Everything up to here is known.
    pub last: u64,
}

impl History {
    fn state(&self, at: u64) -> BTreeMap<Key, u64> {
        let mut state = self.entries.clone();
        for (key, put) in self.changes.range(..=at).flat_map(|(_, changes)| changes) {
            match put {
                Some(revision) => state.insert(key.clone(), *revision),
                None => state.remove(key),
            };
        }
        state
    }

    fn between(&self, after: u64, to: u64) -> Vec<Told> {
        self.changes.range(after + 1..=to).flat_map(|(_, changes)| changes.clone()).collect()
    }
}

/// The truth, by generation: a wiped store begins another.
#[derive(Clone, Default)]
pub struct Truth {
    histories: Arc<Mutex<Vec<History>>>,
    generation: Arc<AtomicUsize>,
}

impl Truth {
    /// Which generation the store is in.
    pub fn generation(&self) -> usize {
        self.generation.load(Ordering::SeqCst)
    }

    /// The store is gone; what comes next is another one.
    pub fn begin_another(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Up to where the present generation is known.
    pub fn last(&self) -> u64 {
        let histories = self.histories.lock().unwrap();
        histories.get(self.generation()).map_or(0, |history| history.last)
    }

    pub fn with<T>(&self, read: impl FnOnce(&[History]) -> T) -> T {
        read(&self.histories.lock().unwrap())
    }

    /// Records for ever, at one member after the other.
    pub async fn record(self, endpoints: Vec<String>) {
        for endpoint in endpoints.iter().cycle() {
            let generation = self.generation();
            // It ends with an error, which is expected, or is given up when it may be stalled.
            let _ = self.record_at(endpoint, generation).await;
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn record_at(&self, endpoint: &str, generation: usize) -> Result<(), etcd_client::Error> {
        let mut client = operator::connect(endpoint).await?;
        if self.with(|histories| histories.len() <= generation) {
            let options = GetOptions::new().with_prefix().with_keys_only();
            let Ok(list) = timeout(QUIET, client.get(MODEL_ROOT_PATH, Some(options))).await else {
                return Ok(());
            };
            let list = list?;
            if self.generation() != generation {
                return Ok(());
            }
            let revision = list.header().map_or(0, |header| header.revision() as u64);
            let entries = list.kvs().iter().map(|kv| (kv.key().into(), kv.mod_revision() as u64));
            let history = History {
                first: revision,
                last: revision,
                entries: entries.collect(),
                changes: BTreeMap::new(),
            };
            let mut histories = self.histories.lock().unwrap();
            histories.resize_with(generation, History::default);
            histories.push(history);
        }
        let after = self.with(|histories| histories[generation].last);
        let options = WatchOptions::new().with_prefix().with_start_revision(after as i64 + 1);
        let mut watch = client.watch(MODEL_ROOT_PATH, Some(options)).await?;
        loop {
            let message = match timeout(QUIET, watch.message()).await {
                Ok(message) => message?,
                Err(_) => {
                    watch.request_progress().await?;
                    match timeout(QUIET, watch.message()).await {
                        Ok(message) => message?,
                        Err(_) => return Ok(()),
                    }
                }
            };
            let Some(message) = message.filter(|message| !message.canceled()) else {
                return Ok(());
            };
            if self.generation() != generation {
                return Ok(());
            }
            let mut histories = self.histories.lock().unwrap();
            let history = &mut histories[generation];
            for event in message.events() {
                let Some(kv) = event.kv() else { continue };
                let revision = kv.mod_revision() as u64;
                let put = (event.event_type() == EventType::Put).then_some(revision);
                history.changes.entry(revision).or_default().push((kv.key().into(), put));
                history.last = history.last.max(revision);
            }
        }
    }
}

/// How long nothing may come before one asks whether anyone is there.
const QUIET: Duration = Duration::from_secs(2);

/// One list, and what was delivered after it.
#[derive(Debug)]
struct Chain {
    generation: usize,
    snapshot: Snapshot,
    batches: Vec<(u64, Vec<Change>)>,
}

/// What our client was told.
#[derive(Clone, Default)]
pub struct Ours(Arc<Mutex<Vec<Chain>>>);

impl Ours {
    /// Lists and watches for ever, and resumes where it can.
    pub async fn record(self, store: Arc<EtcdStore>, truth: Truth) {
        let range = KeyRange::prefix(MODEL_ROOT_PATH);
        let mut cursor = None;
        loop {
            let Some(after) = cursor.take() else {
                if let Ok(Ok(snapshot)) = timeout(PATIENCE, store.list(&range)).await {
                    let generation = truth.generation();
                    cursor = Some(cursor_of(&live(&snapshot.entries), snapshot.revision));
                    self.0.lock().unwrap().push(Chain { generation, snapshot, batches: vec![] });
                } else {
                    sleep(AGAIN).await;
                }
                continue;
            };
            cursor = self.follow(&store, &range, after).await;
            sleep(AGAIN).await;
        }
    }

    /// Watches until it breaks, and returns where to resume; nothing where only a list helps.
    async fn follow(&self, store: &EtcdStore, range: &KeyRange, after: Cursor) -> Option<Cursor> {
        let opened = timeout(PATIENCE, store.watch(range, &after)).await;
        let mut items = match opened {
            Ok(Ok(items)) => items,
            Ok(Err(StoreError::Compacted | StoreError::Replaced)) => return None,
            _ => return Some(after),
        };
        loop {
            match timeout(PATIENCE, items.next()).await {
                Ok(Some(Ok(WatchItem::Batch { revision, changes }))) => {
                    let mut chains = self.0.lock().unwrap();
                    let chain = chains.last_mut().unwrap();
                    chain.batches.push((revision.0, changes));
                }
                Ok(Some(Ok(WatchItem::Alive))) => {}
                Ok(Some(Err(StoreError::Compacted | StoreError::Replaced))) => return None,
                _ => break,
            }
        }
        let chains = self.0.lock().unwrap();
        let chain = chains.last().unwrap();
        let mut held = live(&chain.snapshot.entries);
        for change in chain.batches.iter().flat_map(|(_, changes)| changes) {
            match change {
                Change::Put(entry) => held.insert(entry.key.clone(), entry),
                Change::Delete(key) => held.remove(key),
            };
        }
        let reached = chain.batches.last().map_or(chain.snapshot.revision, |(to, _)| Revision(*to));
        // Without a key to prove the history by, a list.
        (!held.is_empty()).then(|| cursor_of(&held, reached))
    }

    /// Ordered, unique, resumable: each list is the state at its revision, and what came after it is
    /// all that happened since, once and in order. Returns how much was compared.
    pub fn check(&self, truth: &Truth, breaches: &mut Vec<String>) -> (usize, usize) {
        let chains = self.0.lock().unwrap();
        truth.with(|histories| {
            for chain in chains.iter() {
                if let Some(history) = histories.get(chain.generation) {
                    check(chain, history, breaches);
                }
            }
        });
        (chains.len(), chains.iter().map(|chain| chain.batches.len()).sum())
    }
}

const PATIENCE: Duration = Duration::from_secs(7);
const AGAIN: Duration = Duration::from_millis(50);

fn live(entries: &[Entry]) -> BTreeMap<Key, &Entry> {
    entries.iter().map(|entry| (entry.key.clone(), entry)).collect()
}

fn cursor_of(held: &BTreeMap<Key, &Entry>, revision: Revision) -> Cursor {
    let newest = held.values().max_by_key(|entry| entry.mod_revision);
    Cursor { revision, anchor: newest.map(|entry| (entry.key.clone(), entry.stamp())) }
}

fn check(chain: &Chain, history: &History, breaches: &mut Vec<String>) {
    let begun = chain.snapshot.revision.0;
    let known = |revision: u64| (history.first..=history.last).contains(&revision);
    if known(begun) {
        let listed: BTreeMap<_, _> =
            live(&chain.snapshot.entries).into_iter().map(|(k, e)| (k, e.mod_revision.0)).collect();
        if listed != history.state(begun) {
            breaches.push(format!("the list at {begun} is not the state: {listed:?}"));
        }
    }
    let mut reached = begun;
    for (revision, changes) in &chain.batches {
        if *revision <= reached {
            breaches.push(format!("after {reached} came {revision}"));
        }
        let told = |change: &Change| match change {
            Change::Put(entry) => (entry.key.clone(), Some(entry.mod_revision.0)),
            Change::Delete(key) => (key.clone(), None),
        };
        let mut told: Vec<_> = changes.iter().map(told).collect();
        if known(reached) && known(*revision) {
            let mut happened = history.between(reached, *revision);
            // Within a revision there is no order.
            told.sort_unstable();
            happened.sort_unstable();
            if told != happened {
                breaches.push(format!(
                    "between {reached} and {revision} of generation {} happened {happened:?}, told was {told:?}",
                    chain.generation
                ));
            }
        }
        reached = *revision;
    }
}
