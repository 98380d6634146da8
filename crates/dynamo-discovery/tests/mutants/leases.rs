//! Stores that are wrong about leases and the keys under them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::{
    Key, Lease, LeaseId, LeaseStore as _, MemoryStore, StoreError, WatchStore as _,
};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::harness::{Mutation, Result, entry_of, everywhere};

/// Every second worker gets the lease that was granted before.
#[derive(Clone, Default)]
pub(crate) struct SharedLease {
    workers: Arc<AtomicUsize>,
    shares: bool,
    last: Arc<Mutex<Option<Lease>>>,
}

#[async_trait]
impl Mutation for SharedLease {
    fn worker(&self) -> Self {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        Self { shares: number % 2 == 1, ..self.clone() }
    }

    async fn grant(&self, store: &MemoryStore, ttl: Duration) -> Result<Lease> {
        let last = *self.last.lock().unwrap();
        if let Some(last) = last.filter(|_| self.shares) {
            return Ok(last);
        }
        let lease = store.grant(ttl).await?;
        *self.last.lock().unwrap() = Some(lease);
        Ok(lease)
    }
}

/// The term of a lease is another than the one that was asked for, and told or not.
#[derive(Clone)]
pub(crate) struct Term {
    pub(crate) longer: Duration,
    pub(crate) part: u32,
    pub(crate) is_told: bool,
}

impl Term {
    fn told(&self, real: Duration) -> Duration {
        if self.is_told { real } else { (real - self.longer) * self.part }
    }
}

#[async_trait]
impl Mutation for Term {
    async fn grant(&self, store: &MemoryStore, ttl: Duration) -> Result<Lease> {
        let Lease { id, ttl } = store.grant(ttl / self.part + self.longer).await?;
        Ok(Lease { id, ttl: self.told(ttl) })
    }

    async fn renew(&self, store: &MemoryStore, lease: LeaseId) -> Result<Option<Duration>> {
        Ok(store.renew(lease).await?.map(|ttl| self.told(ttl)))
    }
}

/// A renewal is answered and changes nothing.
#[derive(Clone, Default)]
pub(crate) struct RenewsNothing(Arc<Mutex<BTreeMap<LeaseId, (Instant, Duration)>>>);

#[async_trait]
impl Mutation for RenewsNothing {
    async fn grant(&self, store: &MemoryStore, ttl: Duration) -> Result<Lease> {
        let lease = store.grant(ttl).await?;
        self.0.lock().unwrap().insert(lease.id, (Instant::now() + ttl, ttl));
        Ok(lease)
    }

    async fn renew(&self, store: &MemoryStore, lease: LeaseId) -> Result<Option<Duration>> {
        store.list(&everywhere()).await?;
        let terms = self.0.lock().unwrap();
        let term = terms.get(&lease).filter(|(ends, _)| Instant::now() < *ends);
        Ok(term.map(|(_, ttl)| *ttl))
    }

    async fn revoke(&self, store: &MemoryStore, lease: LeaseId) -> Result<()> {
        self.0.lock().unwrap().remove(&lease);
        store.revoke(lease).await
    }
}

/// What is wrong with the answer to a renewal.
#[derive(Clone)]
pub(crate) enum Renewal {
    /// It says less than what is true.
    Short,
    /// A lease that has ended lives.
    OfTheDead,
}

#[async_trait]
impl Mutation for Renewal {
    async fn renew(&self, store: &MemoryStore, lease: LeaseId) -> Result<Option<Duration>> {
        let renewed = store.renew(lease).await?;
        Ok(match self {
            Self::Short => renewed.map(|ttl| ttl / 2),
            Self::OfTheDead => renewed.or(Some(Duration::from_secs(10))),
        })
    }
}

/// What is wrong with a put under a lease that has ended.
#[derive(Clone)]
pub(crate) enum LatePut {
    /// It writes a key without a lease.
    Writes,
    /// It is refused, and writes all the same.
    WritesAndFails,
    /// It is refused with an error that does not ask for another lease.
    IsUnavailable,
}

#[async_trait]
impl Mutation for LatePut {
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        match (store.put(key, value.clone(), lease).await, self) {
            (Err(StoreError::LeaseGone), Self::Writes) => {
                store.put_unleased(key.clone(), value);
                Ok(())
            }
            (Err(StoreError::LeaseGone), Self::WritesAndFails) => {
                store.put_unleased(key.clone(), value);
                Err(StoreError::LeaseGone)
            }
            (Err(StoreError::LeaseGone), Self::IsUnavailable) => {
                Err(StoreError::Unavailable("no such lease".into()))
            }
            (result, _) => result,
        }
    }
}

/// What is wrong with a revoke.
#[derive(Clone)]
pub(crate) enum Revoke {
    /// The keys go a second later.
    Later,
    /// The keys stay, and are of no lease.
    LeavesKeys,
    /// The keys go one by one.
    OneByOne,
}

#[async_trait]
impl Mutation for Revoke {
    async fn revoke(&self, store: &MemoryStore, lease: LeaseId) -> Result<()> {
        let entries = store.list(&everywhere()).await?.entries.into_iter();
        let keys = entries.filter(|entry| entry.lease == Some(lease));
        match self {
            Self::Later => {
                let store = store.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    store.revoke(lease).await
                });
                Ok(())
            }
            Self::LeavesKeys => {
                for entry in keys {
                    store.put_unleased(entry.key, entry.value);
                }
                store.revoke(lease).await
            }
            Self::OneByOne => {
                for entry in keys {
                    store.delete(entry.key);
                    yield_now().await;
                }
                store.revoke(lease).await
            }
        }
    }
}

/// A second revoke fails.
#[derive(Clone)]
pub(crate) struct RevokesOnce;

#[async_trait]
impl Mutation for RevokesOnce {
    async fn revoke(&self, store: &MemoryStore, lease: LeaseId) -> Result<()> {
        store.renew(lease).await?.ok_or(StoreError::LeaseGone)?;
        store.revoke(lease).await
    }
}

/// A key belongs to every lease under which it was ever put.
#[derive(Clone, Default)]
pub(crate) struct KeysOfAllTimes(Arc<Mutex<BTreeSet<(LeaseId, Key)>>>);

#[async_trait]
impl Mutation for KeysOfAllTimes {
    async fn put(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<()> {
        store.put(key, value, lease).await?;
        self.0.lock().unwrap().insert((lease, key.clone()));
        Ok(())
    }

    async fn revoke(&self, store: &MemoryStore, lease: LeaseId) -> Result<()> {
        store.revoke(lease).await?;
        for (_, key) in self.0.lock().unwrap().iter().filter(|(owner, _)| *owner == lease) {
            store.delete(key.clone());
        }
        Ok(())
    }
}

/// What is wrong with a conditional put.
#[derive(Clone)]
pub(crate) enum ConditionalPut {
    /// It writes whatever is there.
    Always,
    /// It writes if the key is there, whosever it is.
    OverAnyone,
    /// It says that it wrote when it did not.
    SaysYes,
    /// It says that it did not write when it did.
    SaysNo,
    /// It writes nothing.
    WritesNothing,
    /// It takes the key from its lease.
    WithoutLease,
}

#[async_trait]
impl Mutation for ConditionalPut {
    async fn put_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool> {
        let entry = entry_of(store, key).await?;
        let is_ours = entry.as_ref().is_some_and(|entry| entry.lease == Some(lease));
        match self {
            Self::Always if !is_ours => {
                store.put_unleased(key.clone(), value);
                Ok(true)
            }
            Self::OverAnyone if entry.is_some() => {
                store.put(key, value, lease).await?;
                Ok(true)
            }
            Self::SaysYes => store.put_if_leased(key, value, lease).await.map(|_| true),
            Self::SaysNo => store.put_if_leased(key, value, lease).await.map(|_| false),
            Self::WritesNothing => Ok(is_ours),
            Self::WithoutLease if is_ours => {
                store.put_unleased(key.clone(), value);
                Ok(true)
            }
            _ => store.put_if_leased(key, value, lease).await,
        }
    }
}

/// What is wrong with a conditional delete.
#[derive(Clone)]
pub(crate) enum ConditionalDelete {
    /// It deletes whatever is there.
    Always,
    /// It says that it deleted when it did not.
    SaysYes,
    /// It deletes nothing.
    DeletesNothing,
}

#[async_trait]
impl Mutation for ConditionalDelete {
    async fn delete_if_leased(
        &self,
        store: &MemoryStore,
        key: &Key,
        lease: LeaseId,
    ) -> Result<bool> {
        match self {
            Self::Always => Ok(entry_of(store, key).await?.is_some() && store.delete(key.clone())),
            Self::SaysYes => store.delete_if_leased(key, lease).await.map(|_| true),
            Self::DeletesNothing => {
                Ok(entry_of(store, key).await?.is_some_and(|entry| entry.lease == Some(lease)))
            }
        }
    }
}
