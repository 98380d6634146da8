//! What frontends that count together do with a store, beside watching it.

use async_trait::async_trait;
use bytes::Bytes;

use crate::store::{Key, LeaseId, LeaseStore, Revision, StoreError, WatchStore};

/// All that a frontend does with a store that shares its counts.
#[async_trait]
pub trait CounterStore: WatchStore + LeaseStore {
    /// Puts a key under a lease if it was last written at this revision, and with `None` if it is not
    /// there. Returns the revision of the put; `None` when somebody else has written or deleted the
    /// key. The store compares and writes in one step.
    ///
    /// So a put that arrives late, and twice, never writes over a later one.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseGone`] when the lease has ended; else as of [`LeaseStore::put`].
    async fn put_if_unchanged(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>, StoreError>;
}
