//! Stores that are wrong about outages, denials and want of space.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::{
    Cursor, Key, KeyRange, Lease, LeaseId, LeaseStore as _, LeasedWrite, MemoryStore, Snapshot,
    StoreError, WatchStore as _,
};

use crate::harness::{Items, Mutation, Result};

/// What is wrong while a store cannot be reached, and afterwards.
#[derive(Clone)]
pub(crate) enum Outage {
    /// A renewal waits for ever.
    Hangs,
    /// A put fails with another error.
    IsDenied,
    /// A list is empty.
    ListsNothing,
    /// Open watches say that they are alive.
    WatchesGoOn,
    /// Open watches say that access is denied.
    WatchesAreDenied,
    /// The store is empty afterwards.
    LosesAll,
    /// The history is lost afterwards.
    LosesHistory,
}

#[async_trait]
impl Mutation for Outage {
    fn set_reachable(&self, store: &MemoryStore, reachable: bool) {
        store.set_available(reachable);
        match self {
            Self::WatchesGoOn => {}
            Self::LosesAll => store.replace(),
            Self::LosesHistory => {
                store.disconnect();
                store.compact();
            }
            _ => store.disconnect(),
        }
    }

    async fn renew(&self, store: &MemoryStore, lease: LeaseId) -> Result<Option<Duration>> {
        match store.renew(lease).await {
            Err(StoreError::Unavailable(_)) if matches!(self, Self::Hangs) => {
                std::future::pending().await
            }
            result => result,
        }
    }

    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        match store.put(key, value, lease).await {
            Err(StoreError::Unavailable(cause)) if matches!(self, Self::IsDenied) => {
                Err(StoreError::Denied(cause))
            }
            result => result,
        }
    }

    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        match store.list(range).await {
            Err(StoreError::Unavailable(_)) if matches!(self, Self::ListsNothing) => {
                Ok(Snapshot::default())
            }
            result => result,
        }
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        use futures_util::StreamExt as _;

        let items = store.watch(range, after).await?;
        let is_denied = matches!(self, Self::WatchesAreDenied);
        let items = items.map(move |item| match item {
            Err(StoreError::Unavailable(cause)) if is_denied => Err(StoreError::Denied(cause)),
            item => item,
        });
        Ok(items.boxed())
    }
}

/// What is wrong while a store denies access.
#[derive(Clone)]
pub(crate) enum Denial {
    /// A list fails with another error.
    IsUnavailable,
    /// A list is empty.
    ListsNothing,
    /// A watch says nothing.
    WatchesNothing,
    /// A put fails, and writes all the same.
    Writes,
}

#[async_trait]
impl Mutation for Denial {
    async fn list(&self, store: &MemoryStore, range: &KeyRange) -> Result<Snapshot> {
        match (store.list(range).await, self) {
            (Err(StoreError::Denied(cause)), Self::IsUnavailable) => {
                Err(StoreError::Unavailable(cause))
            }
            (Err(StoreError::Denied(_)), Self::ListsNothing) => Ok(Snapshot::default()),
            (result, _) => result,
        }
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        match (store.watch(range, after).await, self) {
            (Err(StoreError::Denied(_)), Self::WatchesNothing) => {
                Ok(Box::pin(futures_util::stream::pending()))
            }
            (result, _) => result,
        }
    }

    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        let result = store.put(key, value.clone(), lease).await;
        if matches!((&result, self), (Err(StoreError::Denied(_)), Self::Writes)) {
            store.put_unleased(key.clone(), value);
        }
        result
    }
}

/// What is wrong while a store has no space.
#[derive(Clone)]
pub(crate) enum Space {
    /// A put fails with another error.
    IsUnavailable,
    /// A lease is granted, which takes space.
    Grants,
    /// Several writes do what takes no space, and fail.
    WritesInPart,
    /// A put fails, and writes all the same.
    Writes,
    /// A delete fails as a put does.
    DeletesNothing,
    /// No lease is renewed.
    RenewsNothing,
}

#[async_trait]
impl Mutation for Space {
    async fn grant(&self, store: &MemoryStore, ttl: Duration) -> Result<Lease> {
        match (store.grant(ttl).await, self) {
            (Err(StoreError::Full(_)), Self::Grants) => Ok(Lease { id: LeaseId(1 << 40), ttl }),
            (result, _) => result,
        }
    }

    async fn renew(&self, store: &MemoryStore, lease: LeaseId) -> Result<Option<Duration>> {
        match self {
            Self::RenewsNothing if is_full(store).await => Ok(None),
            _ => store.renew(lease).await,
        }
    }

    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        match (store.put(key, value.clone(), lease).await, self) {
            (Err(StoreError::Full(cause)), Self::IsUnavailable) => {
                Err(StoreError::Unavailable(cause))
            }
            (Err(full @ StoreError::Full(_)), Self::Writes) => {
                store.put_unleased(key.clone(), value);
                Err(full)
            }
            (result, _) => result,
        }
    }

    async fn delete_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        lease: LeaseId,
    ) -> Result<bool> {
        if matches!(self, Self::DeletesNothing) && is_full(store).await {
            return Err(StoreError::Full("deletes need space here".into()));
        }
        store.delete_if_leased(key, lease).await
    }

    async fn write(
        &self,
        store: &MemoryStore,
        writes: &[LeasedWrite],
        lease: LeaseId,
    ) -> Result<Vec<bool>> {
        let result = store.write(writes, lease).await;
        if matches!((&result, self), (Err(StoreError::Full(_)), Self::WritesInPart)) {
            for write in writes {
                if let LeasedWrite::DeleteIfLeased(key) = write {
                    store.delete_if_leased(key, lease).await?;
                }
            }
        }
        result
    }
}

async fn is_full(store: &MemoryStore) -> bool {
    matches!(store.grant(Duration::from_secs(1)).await, Err(StoreError::Full(_)))
}
