//! Which entries a watcher discovers.

use std::sync::Arc;

use dynamo_namespace::{InvalidNamespace, NamespaceScope};

use crate::network_prefix::NetworkPrefix;
use crate::store::{KeyRange, WatchStore};
use crate::timing::Timing;

/// Which keys a watcher asks the store for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchScope {
    /// All keys below the root. The catalog takes the entries that are in scope. Flat keys, which do
    /// not show their namespace, are visible.
    #[default]
    Value,
    /// The scope's own range of keys. The cost follows the size of the namespace and not of the
    /// cluster, and the store's roles can fence teams off. Flat keys are invisible.
    Key,
}

/// Which entries of which store a [`ModelWatcher`](crate::ModelWatcher) discovers, and how long it waits.
///
/// ```
/// use std::sync::Arc;
/// use dynamo_discovery::{MemoryStore, ModelWatcher, WatchScope, WatcherConfig};
/// use dynamo_namespace::NamespaceScope;
///
/// let config = WatcherConfig::new(Arc::new(MemoryStore::new()))
///     .with_network_prefix("staging/models/".parse()?)
///     .with_target_namespace(NamespaceScope::Generations("team-a".parse()?))
///     .with_watch_scope(WatchScope::Key);
/// let watcher = ModelWatcher::new(config)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[must_use]
pub struct WatcherConfig {
    #[debug(skip)]
    pub(super) store: Arc<dyn WatchStore>,
    pub(super) network_prefix: NetworkPrefix,
    pub(super) target_namespace: NamespaceScope,
    watch_scope: WatchScope,
    pub(super) timing: Timing,
}

impl WatcherConfig {
    /// All entries below the default [`NetworkPrefix`], with the default [`Timing`].
    pub fn new(store: Arc<dyn WatchStore>) -> Self {
        Self {
            store,
            network_prefix: NetworkPrefix::default(),
            target_namespace: NamespaceScope::All,
            watch_scope: WatchScope::default(),
            timing: Timing::default(),
        }
    }

    /// Sets the scope whose entries are discovered. By default all are.
    pub fn with_target_namespace(self, target_namespace: NamespaceScope) -> Self {
        Self { target_namespace, ..self }
    }

    /// Sets the root of the keys. By default it is [`NetworkPrefix::default`].
    pub fn with_network_prefix(self, network_prefix: NetworkPrefix) -> Self {
        Self { network_prefix, ..self }
    }

    /// Sets which keys the store is asked for. By default [`WatchScope::Value`].
    pub fn with_watch_scope(self, watch_scope: WatchScope) -> Self {
        Self { watch_scope, ..self }
    }

    /// Sets how long the watcher waits.
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// The scope whose entries are discovered.
    pub fn target_namespace(&self) -> &NamespaceScope {
        &self.target_namespace
    }

    /// The keys that the store is asked for.
    pub(super) fn range(&self) -> Result<KeyRange, WatcherError> {
        match self.watch_scope {
            WatchScope::Value => Ok(self.network_prefix.range()),
            WatchScope::Key => self
                .network_prefix
                .narrow_range(&self.target_namespace)
                .ok_or_else(|| WatcherError::NothingToNarrow(self.target_namespace.clone())),
        }
    }
}

/// Why a configuration cannot be used. A watcher that runs has no errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatcherError {
    /// The target is no namespace.
    #[error(transparent)]
    Namespace(#[from] InvalidNamespace),
    /// [`WatchScope::Key`] with a scope that has no key range of its own.
    #[error("the scope \"{0}\" has no key range of its own to watch")]
    NothingToNarrow(NamespaceScope),
}
