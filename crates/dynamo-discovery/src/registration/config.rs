//! Where and as whom a worker publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::ModelEntry;
use crate::model_key::{InstanceId, ModelKey};
use crate::network_prefix::NetworkPrefix;
use crate::store::{Key, LeaseStore};

/// Where a worker publishes its models, as which instance, and for how long they outlive it.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use dynamo_discovery::{InstanceId, MemoryStore, RegistrationConfig};
///
/// let config = RegistrationConfig::new(Arc::new(MemoryStore::new()))
///     .with_network_prefix("staging/models/".parse()?)
///     .with_instance(InstanceId(0x1f))
///     .with_ttl(Duration::from_secs(20));
/// # Ok::<(), dynamo_discovery::InvalidPrefix>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[must_use]
pub struct RegistrationConfig {
    #[debug(skip)]
    pub(super) store: Arc<dyn LeaseStore>,
    network_prefix: NetworkPrefix,
    instance: InstanceId,
    pub(super) ttl: Duration,
}

impl RegistrationConfig {
    /// The TTL by default: 10 seconds.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

    /// A random instance in this store, below the default [`NetworkPrefix`], with the
    /// [`DEFAULT_TTL`](Self::DEFAULT_TTL).
    pub fn new(store: Arc<dyn LeaseStore>) -> Self {
        Self {
            store,
            network_prefix: NetworkPrefix::default(),
            instance: InstanceId::random(),
            ttl: Self::DEFAULT_TTL,
        }
    }

    /// Sets the root of the keys. By default it is [`NetworkPrefix::default`].
    pub fn with_network_prefix(self, network_prefix: NetworkPrefix) -> Self {
        Self { network_prefix, ..self }
    }

    /// Sets the worker process as which the models are published. By default it is a random one.
    ///
    /// A worker that publishes again after a loss uses the same instance: then the same keys get the
    /// same values, and no watcher sees a change.
    pub fn with_instance(self, instance: InstanceId) -> Self {
        Self { instance, ..self }
    }

    /// Sets how long the entries outlive the worker. By default [`DEFAULT_TTL`](Self::DEFAULT_TTL).
    /// A store may grant more.
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// The worker process as which the models are published.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    fn key(&self, entry: &ModelEntry) -> Key {
        let key = ModelKey::Native {
            endpoint: entry.endpoint().clone(),
            instance: self.instance,
            model: entry.name().to_owned(),
        };
        self.network_prefix.key(&key)
    }

    /// The entries by their keys. Of entries with one key, the last counts.
    pub(super) fn by_key(&self, entries: Vec<ModelEntry>) -> BTreeMap<Key, ModelEntry> {
        entries.into_iter().map(|entry| (self.key(&entry), entry)).collect()
    }
}
