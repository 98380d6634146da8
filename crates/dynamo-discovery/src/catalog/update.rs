//! Events of a store, and their effect on the live instances.

use std::sync::Arc;

use dynamo_namespace::Namespace;

use crate::entry::InvalidEntry;
use crate::instance::Instance;
use crate::model_key::InvalidKey;
use crate::store::{Change, Key, Snapshot};
use crate::worker_url::InvalidUrl;

/// One event of a store.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// All entries: after the start, and whenever the history was lost.
    Resync(Snapshot),
    /// Changes, in the order in which they happened.
    Batch(Vec<Change>),
}

/// The change of one key's instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelUpdate {
    /// An instance is there. For each key, `Added` and `Removed` strictly alternate.
    Added(Arc<Instance>),
    /// An instance's entry was overwritten with another value.
    Changed {
        /// The instance until now.
        old: Arc<Instance>,
        /// The instance from now on.
        new: Arc<Instance>,
    },
    /// An instance is gone.
    Removed(Arc<Instance>, Gone),
}

/// Why an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gone {
    /// The worker said that it withdraws.
    Withdrawn,
    /// The key was deleted or its lease ended. Stores delete live leases now and then, so this is no
    /// proof that the worker is dead.
    Vanished,
    /// The entry was overwritten with an invalid one.
    Refused,
    /// The entry moved to a namespace out of scope.
    OutOfScope,
}

/// An entry that was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The entry's key.
    pub key: Key,
    /// The namespace, where it is known and in scope.
    pub namespace: Option<Namespace>,
    /// The model's name, where it is known and fit to be shown.
    pub model: Option<String>,
    /// The rule that the entry breaks.
    pub error: Refusal,
}

/// Why an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The key is invalid.
    #[error("invalid key")]
    Key(#[from] InvalidKey),
    /// The value is invalid.
    #[error("invalid value")]
    Value(#[from] InvalidEntry),
}

/// A field of a live entry that was ignored, and why. The entry is as one without the field.
///
/// The only such field is `control`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ignored {
    /// The entry's key.
    pub key: Key,
    /// The rule that the field breaks.
    pub error: InvalidUrl,
}

/// The effect of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The changes, in order.
    pub updates: Vec<ModelUpdate>,
    /// The entries that were refused.
    pub refused: Vec<Refused>,
    /// The fields that were ignored, of entries that are live.
    pub ignored: Vec<Ignored>,
    /// How many entries were out of scope. Nothing else about them is told.
    pub out_of_scope: usize,
    /// Flat keys that were deleted and not known. Native keys that were not known are not told.
    pub unknown_deletes: Vec<Key>,
    /// Keys in scope that were not live, and were put draining or refused. A reader that still holds
    /// an instance which vanished learns from its key here that the worker withdrew it.
    pub unserved: Vec<Key>,
}
