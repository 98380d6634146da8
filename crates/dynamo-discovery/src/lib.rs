// The front page of the documentation is the README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accepts;
mod address;
mod authority;
mod backoff;
mod by_key;
mod catalog;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod control_url;
mod counter_store;
mod entry;
mod error_chain;
#[cfg(feature = "etcd")]
mod etcd;
mod instance;
mod instance_status;
mod kind;
mod memory;
mod model_key;
mod network_prefix;
mod random;
mod registration;
mod saved;
mod store;
mod store_watcher;
mod timing;
mod usage;
mod watcher;
mod worker_url;

pub use accepts::{Accepts, RequestField, UnknownRequestField};
pub use address::is_forbidden_address;
pub use by_key::ByKey;
pub use catalog::{
    Applied, Catalog, EntryReader, Gone, Ignored, ModelUpdate, ReadEntry, Refusal, Refused, Relist,
    StoreEvent,
};
pub use control_url::ControlUrl;
pub use counter_store::CounterStore;
pub use entry::{InvalidEntry, ModelEntry, State, check_model_name};
pub use error_chain::ErrorChain;
#[cfg(feature = "etcd-tls")]
pub use etcd::{ClientIdentity, Tls};
#[cfg(feature = "etcd")]
pub use etcd::{Credentials, EtcdConfig, EtcdConfigError, EtcdStore, Grant, MemberState, Password};
pub use instance::Instance;
pub use instance_status::{EngineState, InstanceStatus, InvalidStatus, WorkerState};
pub use kind::{Kind, Kinds, ParsedKinds};
pub use memory::MemoryStore;
pub use model_key::{InstanceId, InvalidKey, ModelKey};
pub use network_prefix::{InvalidPrefix, MODEL_ROOT_PATH, NetworkPrefix};
pub use registration::{Registration, RegistrationConfig};
pub use saved::{CatalogOrigin, SavedCatalog, SavedCatalogError};
pub use store::{
    Cause, Change, Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, LeasedWrite, Listing,
    Page, Revision, Snapshot, Stamp, StoreError, WatchItem, WatchStore,
};
#[cfg(any(test, feature = "mock"))]
pub use store::{MockLeaseStore, MockWatchStore};
pub use timing::Timing;
pub use usage::{
    Counting, Counts, GroupName, InvalidGroup, UsageGroup, UsageKey, UsageSharing, UsageStatus,
    UsageTally, WindowCounts,
};
pub use watcher::{
    DiscoveryBatch, DiscoveryEvent, ModelWatcher, WatchScope, WatcherConfig, WatcherError,
    run_watcher,
};
pub use worker_url::{InvalidUrl, WorkerUrl};

/// The features of this crate that are built in, by their names in its manifest.
pub const FEATURES: &[&str] = &[
    #[cfg(feature = "etcd")]
    "etcd",
    #[cfg(feature = "etcd-tls")]
    "etcd-tls",
    #[cfg(feature = "mock")]
    "mock",
    #[cfg(feature = "test-util")]
    "test-util",
];
