//! The events of a watcher.

use crate::catalog::ModelUpdate;
use crate::store::{Key, Revision};

/// One event of a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// Models changed. The first batch has the models that there are, maybe none; further batches
    /// belong to it for as long as there is [`more`](DiscoveryBatch::more).
    Batch(DiscoveryBatch),
    /// The watch runs.
    Connected,
    /// The watch does not run, and is tried again. All known instances stand.
    Disconnected,
    /// The watch does not run, since the store denies access, and is tried again. All known instances
    /// stand.
    Denied,
}

/// All changes by one answer of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveryBatch {
    /// The store's revision that is applied now.
    pub revision: Revision,
    /// Whether the batch is from a full list.
    pub resync: bool,
    /// Whether the batch is a part of a list, and another part follows in a batch of its own. A reader
    /// can work on this part at once. Its revision is the one before the list, and `resync` is false.
    ///
    /// Lists come in parts only while no instance is known: then no known instance can be missing from
    /// a part. When the list breaks, its parts stand, and the next list is compared with them.
    pub more: bool,
    /// The changes, in order.
    pub updates: Vec<ModelUpdate>,
    /// Keys in scope that were not live, and were put draining or refused.
    pub unserved: Vec<Key>,
    /// How many entries were refused.
    pub refused: usize,
    /// How many fields of live entries were ignored, since they are invalid.
    pub ignored: usize,
    /// How many entries were out of scope.
    pub out_of_scope: usize,
}
