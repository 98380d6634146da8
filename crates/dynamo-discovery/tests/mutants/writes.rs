//! Stores that do several writes, or put strays, wrongly.

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_discovery::{
    CounterStore as _, Key, LeaseId, LeaseStore as _, LeasedWrite, MemoryStore, Revision,
    StoreError,
};

use crate::harness::{Mutation, Result, Strays, entry_of};

/// What is wrong with several writes.
#[derive(Clone)]
pub(crate) enum Writes {
    /// Each is answered as done.
    SayYes,
    /// Those after the first 128 are forgotten, and answered as done.
    AreCut,
    /// A conditional one is done whatever is there.
    AreUnconditional,
    /// Those under a lease that has ended are no error.
    NeedNoLease,
}

#[async_trait]
impl Mutation for Writes {
    async fn write(
        &self,
        store: &MemoryStore,
        writes: &[LeasedWrite],
        lease: LeaseId,
    ) -> Result<Vec<bool>> {
        match self {
            Self::SayYes => Ok(vec![true; store.write(writes, lease).await?.len()]),
            Self::AreCut => {
                let part = &writes[..writes.len().min(128)];
                let mut done = store.write(part, lease).await?;
                done.resize(writes.len(), true);
                Ok(done)
            }
            Self::AreUnconditional => {
                let unconditional = |write: &LeasedWrite| match write.clone() {
                    LeasedWrite::PutIfLeased(key, value) => LeasedWrite::Put(key, value),
                    other => other,
                };
                let writes: Vec<_> = writes.iter().map(unconditional).collect();
                store.write(&writes, lease).await
            }
            Self::NeedNoLease => match store.write(writes, lease).await {
                Err(StoreError::LeaseGone) => Ok(vec![false; writes.len()]),
                result => result,
            },
        }
    }
}

/// What is wrong with strays.
#[derive(Clone)]
pub(crate) enum Stray {
    /// Keys that are gone are not told.
    OnlyThere,
    /// Every key is a stray.
    All,
    /// The entries are not told.
    WithoutEntries,
}

#[async_trait]
impl Mutation for Stray {
    async fn strays(&self, store: &MemoryStore, keys: &[Key], lease: LeaseId) -> Result<Strays> {
        let mut strays = store.strays(keys, lease).await?;
        match self {
            Self::OnlyThere => strays.retain(|(_, entry)| entry.is_some()),
            Self::WithoutEntries => strays.iter_mut().for_each(|(_, entry)| *entry = None),
            Self::All => {
                strays.clear();
                for key in keys {
                    strays.push((key.clone(), entry_of(store, key).await?));
                }
            }
        }
        Ok(strays)
    }
}

/// What is wrong with a put of a stray.
#[derive(Clone)]
pub(crate) enum PutIfUnleased {
    /// It writes over whatever is there.
    Always,
    /// It writes nothing.
    Never,
    /// It writes over the worker's own entry.
    OverOurs,
    /// It needs no lease that lives.
    NeedsNoLease,
}

#[async_trait]
impl Mutation for PutIfUnleased {
    async fn put_if_unleased(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool> {
        match self {
            Self::Always => store.put(key, value, lease).await.map(|()| true),
            Self::Never => Ok(false),
            Self::OverOurs if store.put_if_leased(key, value.clone(), lease).await? => Ok(true),
            Self::OverOurs => store.put_if_unleased(key, value, lease).await,
            Self::NeedsNoLease => match store.put_if_unleased(key, value, lease).await {
                Err(StoreError::LeaseGone) => Ok(false),
                result => result,
            },
        }
    }
}

/// What is wrong with a put that compares.
#[derive(Clone)]
pub(crate) enum UnchangedPut {
    /// It writes over whatever is there.
    Always,
    /// It writes over whatever is there, and says that it did not.
    OverAnyoneInSilence,
    /// It writes where there is nothing, whatever it was told.
    WhereNothingIs,
    /// It compares and writes nothing.
    Never,
    /// It tells the revision before.
    TellsTooLow,
    /// It leaves the key under no lease.
    WithoutLease,
    /// It needs no lease that lives.
    NeedsNoLease,
}

#[async_trait]
impl Mutation for UnchangedPut {
    async fn put_if_unchanged(
        &self,
        store: &MemoryStore,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>> {
        let right = async || store.put_if_unchanged(key, value.clone(), lease, written).await;
        match self {
            Self::Always => {
                store.put(key, value, lease).await?;
                Ok(Some(store.revision()))
            }
            Self::OverAnyoneInSilence => {
                let right = right().await?;
                if right.is_none() {
                    store.put(key, value, lease).await?;
                }
                Ok(right)
            }
            Self::WhereNothingIs => {
                let is_there = entry_of(store, key).await?.is_some();
                let written = written.filter(|_| is_there);
                store.put_if_unchanged(key, value, lease, written).await
            }
            Self::Never => Ok(None),
            Self::TellsTooLow => Ok(right().await?.map(|revision| Revision(revision.0 - 1))),
            Self::WithoutLease => match right().await? {
                Some(_) => Ok(Some(store.put_unleased(key.clone(), value))),
                None => Ok(None),
            },
            Self::NeedsNoLease => match right().await {
                Err(StoreError::LeaseGone) => Ok(None),
                result => result,
            },
        }
    }
}

/// A store that finds no strays, which it may do.
#[derive(Clone)]
pub(crate) struct FindsNoStrays;

#[async_trait]
impl Mutation for FindsNoStrays {
    async fn strays(&self, _: &MemoryStore, _: &[Key], _: LeaseId) -> Result<Strays> {
        Ok(Vec::new())
    }

    async fn put_if_unleased(
        &self,
        _: &MemoryStore,
        _: &Key,
        _: Bytes,
        _: LeaseId,
    ) -> Result<bool> {
        Ok(false)
    }
}
