//! The entries of a scope, read once. Nothing of another scope leaves this module.

use std::collections::HashMap;
use std::time::Duration;

use dynamo_discovery::{
    Cursor, Entry, EntryReader, ErrorChain, EtcdStore, KeyRange, LeaseStore as _, NetworkPrefix,
    ReadEntry, Refused, Revision, StoreError, WatchScope, WatchStore as _,
};
use dynamo_namespace::NamespaceScope;
use futures_util::StreamExt as _;
use tokio::time::timeout;
use tracing::warn;

use super::card::{self, CARDS, INSTANCES};
use super::item::{Item, Layout};
use crate::failure::Failure;
use crate::settings::scope::ScopeSettings;

/// The entries of a scope in a store.
pub(super) struct Shelf {
    store: EtcdStore,
    pub(super) root: NetworkPrefix,
    pub(super) scope: ScopeSettings,
}

impl Shelf {
    pub(super) fn new(store: EtcdStore, root: NetworkPrefix, scope: ScopeSettings) -> Self {
        Self { store, root, scope }
    }

    /// The store, for a watcher, which applies the scope itself.
    pub(super) fn into_store(self) -> EtcdStore {
        self.store
    }

    /// The keys that are asked for, native and flat ones.
    pub(super) fn range(&self) -> KeyRange {
        let narrow = match self.scope.watch {
            WatchScope::Key => self.root.narrow_range(&self.scope.scope),
            WatchScope::Value => None,
        };
        narrow.unwrap_or_else(|| self.root.range())
    }

    /// Whether the keys of newer releases of Dynamo are looked at: they are below no root.
    fn has_cards(&self) -> bool {
        self.root == NetworkPrefix::default()
    }

    /// All entries of the scope, ordered by namespace, model and key.
    ///
    /// # Errors
    ///
    /// When the store denies them or cannot be reached. Where only the keys of newer releases of
    /// Dynamo are denied, they are left out.
    pub(super) async fn items(&self) -> Result<Vec<Item>, Failure> {
        let listed = self.store.list(&self.range()).await;
        let listed = listed.map_err(|error| failed("cannot read the entries", &error))?;
        let mut reader = EntryReader::new(self.root.clone(), self.scope.scope.clone());
        let mut items: Vec<_> = listed
            .entries
            .into_iter()
            .filter_map(|entry| read(&mut reader, entry, &self.root, &self.scope.scope))
            .collect();
        if self.has_cards() {
            items.extend(self.cards().await?);
        }
        let order = |item: &Item| {
            let namespace = item.place.namespace.as_ref().map(|name| name.as_str().to_owned());
            (namespace, item.offer.model.clone(), item.entry.key.clone())
        };
        items.sort_by_cached_key(order);
        Ok(items)
    }

    /// One entry, if it is in scope.
    ///
    /// # Errors
    ///
    /// As of [`items`](Self::items).
    pub(super) async fn item(&self, key: &str) -> Result<Option<Item>, Failure> {
        let mut items = self.items().await?.into_iter();
        Ok(items.find(|item| item.has_key(key)))
    }

    async fn cards(&self) -> Result<Vec<Item>, Failure> {
        let (cards, instances) = match tokio::join!(self.below(CARDS), self.below(INSTANCES)) {
            (Ok(cards), Ok(instances)) => (cards, instances),
            (Err(StoreError::Denied(_)), _) | (_, Err(StoreError::Denied(_))) => {
                // A fenced user has asked for their own keys only.
                if self.scope.watch == WatchScope::Value {
                    warn!(
                        "the role does not cover v1/: entries of Dynamo 0.6 and later are left out"
                    );
                }
                return Ok(Vec::new());
            }
            (Err(error), _) | (_, Err(error)) => {
                return Err(failed("cannot read Dynamo's entries", &error));
            }
        };
        let mut transports: HashMap<String, Option<String>> = instances
            .iter()
            .map(|entry| (entry.key.to_string(), card::transport(&entry.value)))
            .collect();
        let read = |entry: &Entry| {
            let mut item = card::read(entry, &self.scope.scope)?;
            let instance = card::instance_key(&item).and_then(|key| transports.remove(&key));
            item.offer.transport = instance.flatten();
            Some(item)
        };
        Ok(cards.iter().filter_map(read).collect())
    }

    /// The entries below one of Dynamo's roots that may be in scope.
    async fn below(&self, root: &str) -> Result<Vec<Entry>, StoreError> {
        let prefix = NetworkPrefix::new(root)
            .unwrap_or_else(|_| unreachable!("the roots of Dynamo's keys are valid"));
        let range = prefix.narrow_range(&self.scope.scope).unwrap_or_else(|| prefix.range());
        Ok(self.store.list(&range).await?.entries)
    }

    /// Puts an entry of the shelf again, under its lease.
    pub(super) async fn put(&self, item: &Item, value: bytes::Bytes) -> Result<bool, StoreError> {
        match item.entry.lease {
            Some(lease) => self.store.put_if_leased(&item.entry.key, value, lease).await,
            None => Ok(false),
        }
    }

    /// Deletes an entry of the shelf, if it is still as it was read.
    pub(super) async fn delete(&self, item: &Item) -> Result<bool, StoreError> {
        self.store.delete_if_unchanged(&item.entry).await
    }

    /// Whether the user can read a key that is next to our root and not below it.
    pub(super) async fn reads_beside_the_root(&self) -> bool {
        let end = self.root.range().end().clone();
        let beside = KeyRange::new(end.clone(), [end.as_bytes(), &[0]].concat());
        self.store.list(&beside).await.is_ok()
    }

    /// How many revisions the store has, if they are more than so many and its history was never
    /// compacted.
    pub(super) async fn uncompacted(&self, more_than: u64) -> Option<u64> {
        const PATIENCE: Duration = Duration::from_secs(1);

        // A single key, which a role for the range permits.
        let start = self.range().start().clone();
        let key = KeyRange::new(start.clone(), [start.as_bytes(), &[0]].concat());
        let revision = self.store.list(&key).await.ok()?.revision;
        if revision.0 <= more_than {
            return None;
        }
        let first = Cursor { revision: Revision(1), anchor: None };
        let mut changes = self.store.watch(&key, &first).await.ok()?;
        // Some releases say so only after the watch has begun.
        match timeout(PATIENCE, changes.next()).await {
            Ok(Some(Err(_)) | None) => None,
            Ok(Some(Ok(_))) | Err(_) => Some(revision.0),
        }
    }

    /// What the roles of the user permit, where there is a user.
    pub(super) async fn grants(&self) -> Result<Option<Vec<dynamo_discovery::Grant>>, StoreError> {
        self.store.grants().await
    }
}

/// An entry, if it is known to be in scope.
fn read(
    reader: &mut EntryReader,
    entry: Entry,
    root: &NetworkPrefix,
    scope: &NamespaceScope,
) -> Option<Item> {
    match reader.read(entry.clone()) {
        ReadEntry::Valid(instance) => Some(Item::valid(entry, &instance)),
        // Where nobody knows whose it is, it is shown to those who see all.
        ReadEntry::Refused(refused) if is_known(&refused, scope) => {
            let below = entry.key.as_bytes().strip_prefix(root.as_str().as_bytes());
            let is_flat = below.is_some_and(|below| !below.contains(&b'/'));
            let layout = if is_flat { Layout::Flat } else { Layout::Native };
            Some(Item::refused(entry, layout, &refused))
        }
        _ => None,
    }
}

fn is_known(refused: &Refused, scope: &NamespaceScope) -> bool {
    *scope == NamespaceScope::All || refused.namespace.is_some()
}

/// A store's error as the program's last line, with what to do.
pub(super) fn failed(doing: &str, error: &StoreError) -> Failure {
    let remedy = match error {
        StoreError::Denied(_) => {
            "; ask for a role that covers these keys, or narrow the question with --namespace and \
             --watch-scope key"
        }
        StoreError::Unavailable(_) => "; --etcd-endpoints (ETCD_ENDPOINTS) says where etcd is",
        _ => "",
    };
    let error = anyhow::anyhow!("{}{remedy}", ErrorChain(error)).context(doing.to_owned());
    Failure::Running(error)
}
