//! One live entry: a model at a worker.

use dynamo_namespace::EndpointId;

use crate::entry::ModelEntry;
use crate::kind::Kinds;
use crate::model_key::InstanceId;
use crate::store::Key;
use crate::worker_url::WorkerUrl;

/// One model at one worker, under one key, in scope and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    key: Key,
    id: Option<InstanceId>,
    entry: ModelEntry,
}

impl Instance {
    /// An instance of a native key, or with `id` `None` of a flat one.
    pub fn new(key: Key, id: Option<InstanceId>, entry: ModelEntry) -> Self {
        Self { key, id, entry }
    }

    /// The key, which is the instance's identity.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The worker process. Instances of flat keys have none.
    pub fn id(&self) -> Option<InstanceId> {
        self.id
    }

    /// The entry, as the worker registered it.
    pub fn entry(&self) -> &ModelEntry {
        &self.entry
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        self.entry.name()
    }

    /// Where the worker serves, in Dynamo's terms; its namespace is the instance's.
    pub fn endpoint(&self) -> &EndpointId {
        self.entry.endpoint()
    }

    /// Base URL of the worker's server. The entries of Dynamo's own workers have none.
    pub fn url(&self) -> Option<&WorkerUrl> {
        self.entry.url()
    }

    /// The kinds that open a route.
    pub fn kinds(&self) -> Kinds {
        self.entry.served_kinds()
    }
}
