//! Discovery of inference models by namespace, over a small storage trait.
//!
//! A worker publishes its models under a lease with a [`Registration`]; a frontend follows the models
//! of one [`NamespaceScope`](dynamo_namespace::NamespaceScope) with a [`ModelWatcher`], which never
//! ends and lets what was known stand while the store is away.
//!
//! - [`WatchStore`] and [`LeaseStore`] are all that is asked of a store. [`MemoryStore`] is always
//!   there; `EtcdStore` comes with the feature `etcd`, and TLS with `etcd-tls`.
//! - [`Catalog`] is the pure core: what the store said goes in, [`ModelUpdate`]s come out.
//! - The feature `test-util` has mocks of the traits and the conformance suite of every backend.

mod authority;
mod backoff;
mod by_key;
mod catalog;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod entry;
mod error_chain;
#[cfg(feature = "etcd")]
mod etcd;
mod instance;
mod kind;
mod memory;
mod model_key;
mod network_prefix;
mod registration;
mod saved;
mod store;
mod store_watcher;
mod timing;
mod watcher;
mod worker_url;

pub use by_key::ByKey;
pub use catalog::{Applied, Catalog, Gone, ModelUpdate, Refusal, Refused, Relist, StoreEvent};
pub use entry::{InvalidEntry, ModelEntry, State, check_model_name};
pub use error_chain::ErrorChain;
#[cfg(feature = "etcd-tls")]
pub use etcd::{ClientIdentity, Tls};
#[cfg(feature = "etcd")]
pub use etcd::{Credentials, EtcdConfig, EtcdConfigError, EtcdStore};
pub use instance::Instance;
pub use kind::{Kind, Kinds, ParsedKinds};
pub use memory::MemoryStore;
pub use model_key::{InstanceId, InvalidKey, ModelKey};
pub use network_prefix::{InvalidPrefix, MODEL_ROOT_PATH, NetworkPrefix};
pub use registration::{Registration, RegistrationConfig};
pub use saved::{CatalogOrigin, SavedCatalog, SavedCatalogError};
pub use store::{
    Cause, Change, Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, Listing, Page,
    Revision, Snapshot, Stamp, StoreError, WatchItem, WatchStore,
};
#[cfg(any(test, feature = "test-util"))]
pub use store::{MockLeaseStore, MockWatchStore};
pub use timing::Timing;
pub use watcher::{
    DiscoveryBatch, DiscoveryEvent, ModelWatcher, WatchScope, WatcherConfig, WatcherError,
    run_watcher,
};
pub use worker_url::{InvalidUrl, WorkerUrl, is_link_local};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
