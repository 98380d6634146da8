//! Stores that take two steps where the contract wants one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::{
    Change, Cursor, Key, KeyRange, LeaseId, LeaseStore as _, LeasedWrite, MemoryStore, Revision,
    StoreError, WatchItem, WatchStore as _,
};
use futures_util::stream::{self, StreamExt as _};
use tokio::task::yield_now;

use crate::harness::{Items, Mutation, Result, entry_of};

async fn is_ours(store: &MemoryStore, key: &Key, lease: LeaseId) -> Result<bool> {
    let entry = entry_of(store, key).await?;
    // As long as the way to a store takes.
    yield_now().await;
    Ok(entry.is_some_and(|entry| entry.lease == Some(lease)))
}

/// A conditional put reads, and then writes.
#[derive(Clone)]
pub(crate) struct ConditionalPutInTwoSteps;

#[async_trait]
impl Mutation for ConditionalPutInTwoSteps {
    async fn put_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool> {
        let is_ours = is_ours(store, key, lease).await?;
        if is_ours {
            store.put(key, value, lease).await?;
        }
        Ok(is_ours)
    }
}

/// A conditional delete reads, and then deletes.
#[derive(Clone)]
pub(crate) struct ConditionalDeleteInTwoSteps;

#[async_trait]
impl Mutation for ConditionalDeleteInTwoSteps {
    async fn delete_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        lease: LeaseId,
    ) -> Result<bool> {
        Ok(is_ours(store, key, lease).await? && store.delete(key.clone()))
    }
}

/// A put of a stray reads, and then writes.
#[derive(Clone)]
pub(crate) struct PutIfUnleasedInTwoSteps;

#[async_trait]
impl Mutation for PutIfUnleasedInTwoSteps {
    async fn put_if_unleased(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool> {
        let is_free = entry_of(store, key).await?.is_none_or(|entry| entry.lease.is_none());
        yield_now().await;
        if is_free {
            store.put(key, value, lease).await?;
        }
        Ok(is_free)
    }
}

/// A put that compares reads, and then writes.
#[derive(Clone)]
pub(crate) struct UnchangedPutInTwoSteps;

#[async_trait]
impl Mutation for UnchangedPutInTwoSteps {
    async fn put_if_unchanged(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>> {
        if entry_of(store, key).await?.map(|entry| entry.mod_revision) != written {
            return Ok(None);
        }
        yield_now().await;
        store.put(key, value, lease).await?;
        Ok(entry_of(store, key).await?.map(|entry| entry.mod_revision))
    }
}

/// Several writes ask whose the keys are, and then write.
#[derive(Clone)]
pub(crate) struct WritesInTwoSteps;

#[async_trait]
impl Mutation for WritesInTwoSteps {
    async fn write(
        &self,
        store: &MemoryStore,
        writes: &[LeasedWrite],
        lease: LeaseId,
    ) -> Result<Vec<bool>> {
        let mut done = Vec::new();
        for write in writes {
            let (LeasedWrite::Put(key, _)
            | LeasedWrite::PutIfLeased(key, _)
            | LeasedWrite::DeleteIfLeased(key)) = write;
            let is_done =
                matches!(write, LeasedWrite::Put(..)) || is_ours(store, key, lease).await?;
            done.push(is_done);
            match write {
                _ if !is_done => {}
                LeasedWrite::Put(key, value) | LeasedWrite::PutIfLeased(key, value) => {
                    store.put(key, value.clone(), lease).await?;
                }
                LeasedWrite::DeleteIfLeased(key) => _ = store.delete(key.clone()),
            }
        }
        Ok(done)
    }
}

/// A put looks whether the lease lives, and then writes.
#[derive(Clone)]
pub(crate) struct PutInTwoSteps;

#[async_trait]
impl Mutation for PutInTwoSteps {
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        store.renew(lease).await?.ok_or(StoreError::LeaseGone)?;
        yield_now().await;
        match store.put(key, value.clone(), lease).await {
            Err(StoreError::LeaseGone) => {
                store.put_unleased(key.clone(), value);
                Ok(())
            }
            result => result,
        }
    }
}

/// A watch lists again and again, and tells what is different.
#[derive(Clone)]
pub(crate) struct WatchComparesLists;

#[async_trait]
impl Mutation for WatchComparesLists {
    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        let known = store.list(range).await?.entries.into_iter();
        let known: BTreeMap<_, _> =
            known.map(|entry| (entry.key.clone(), entry.mod_revision)).collect();
        let woken = store.watch(range, after).await?;
        let items = stream::try_unfold((woken, known), {
            let (store, range) = (store.clone(), range.clone());
            move |(mut woken, mut known)| {
                let (store, range) = (store.clone(), range.clone());
                async move {
                    match woken.next().await.transpose()? {
                        None => return Ok(None),
                        Some(WatchItem::Alive) => {
                            return Ok(Some((WatchItem::Alive, (woken, known))));
                        }
                        Some(WatchItem::Batch { .. }) => {}
                    }
                    let mut entries = store.list(&range).await?.entries;
                    entries.retain(|entry| {
                        let before = known.insert(entry.key.clone(), entry.mod_revision);
                        before != Some(entry.mod_revision)
                    });
                    entries.sort_by_key(|entry| entry.mod_revision);
                    let item = match entries.last() {
                        Some(last) => WatchItem::Batch {
                            revision: last.mod_revision,
                            changes: entries.into_iter().map(Change::Put).collect(),
                        },
                        None => WatchItem::Alive,
                    };
                    Ok(Some((item, (woken, known))))
                }
            }
        });
        Ok(items.boxed())
    }
}
