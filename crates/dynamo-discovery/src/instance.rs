//! One live entry: a model at a worker.

use crate::entry::ModelEntry;
use crate::kind::Kinds;
use crate::model_key::InstanceId;
use crate::store::Key;

/// One model at one worker, under one key, in scope and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    key: Key,
    id: Option<InstanceId>,
    entry: ModelEntry,
}

impl Instance {
    /// An instance of a native key, or with `id` `None` of a flat one.
    #[must_use]
    pub fn new(key: Key, id: Option<InstanceId>, entry: ModelEntry) -> Self {
        Self { key, id, entry }
    }

    /// The key, which is the instance's identity.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The worker process. Entries under flat keys have none.
    #[must_use]
    pub fn id(&self) -> Option<InstanceId> {
        self.id
    }

    /// What the worker registered.
    #[must_use]
    pub fn entry(&self) -> &ModelEntry {
        &self.entry
    }

    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        self.entry.name()
    }

    /// The kinds that open a route.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.entry.served_kinds()
    }
}
