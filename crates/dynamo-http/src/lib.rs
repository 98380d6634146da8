// The front page of the documentation is the README. Its examples need the feature `proxy`.
#![cfg_attr(feature = "proxy", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "proxy"),
    doc = "Routes that open and close with the models behind them, without the feature `proxy`."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(feature = "proxy"),
    allow(dead_code, unused_imports, reason = "the lower layers have parts for the proxy")
)]

// Each module imports from the modules below it in the table of `xtask/src/modules/mod.rs` alone.
#[cfg(feature = "proxy")]
mod access;
#[cfg(feature = "proxy")]
mod alias;
#[cfg(feature = "proxy")]
mod balance;
#[cfg(feature = "serve")]
mod client_address;
#[cfg(feature = "serve")]
mod client_name;
#[cfg(feature = "serve")]
mod config;
#[cfg(feature = "proxy")]
mod door;
mod error;
#[cfg(feature = "proxy")]
mod exchange;
mod feed;
#[cfg(feature = "proxy")]
mod fleet;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "proxy")]
mod hold;
#[cfg(feature = "proxy")]
mod live;
#[cfg(feature = "proxy")]
mod meter;
#[cfg(feature = "proxy")]
pub mod placement;
#[cfg(feature = "proxy")]
mod priority;
#[cfg(feature = "proxy")]
mod proxy;
mod quiet;
#[cfg(feature = "proxy")]
mod random;
#[cfg(feature = "serve")]
mod relay;
mod route;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod tcp;
#[cfg(feature = "serve")]
mod threads;
#[cfg(feature = "tls")]
mod tls;
mod view;

pub use error::{ApiError, ErrorShape};
pub use feed::{DiscoveryStatus, Feed, Source, SourceStatus};
pub use route::Route;
pub use view::{
    FeedEnded, Gate, GateLayer, InvalidModelNames, Lens, LiveView, Model, ModelNames, RouteChange,
    Scopes, Sight, Staged, Switchboard, SwitchboardWriter, View, WriterGone, gate,
    update_http_endpoints,
};

#[cfg(feature = "proxy")]
pub use access::{
    ApiKey, ApiKeys, Counted, Credential, InvalidKeyHash, InvalidKeyName, InvalidKeys, KeyHash,
    KeyHashes, KeyList, KeyName, Span, TokenLimit, TokenLimits, WeakKey,
};
#[cfg(feature = "proxy")]
pub use alias::{Alias, AliasTable, AliasTarget, Aliases, AnswerAs, InvalidAliases};
#[cfg(feature = "proxy")]
pub use balance::{RouterMode, UnknownRouterMode};
#[cfg(feature = "serve")]
pub use client_address::ClientAddress;
#[cfg(feature = "serve")]
pub use client_name::{ClientName, InvalidClientName};
#[cfg(feature = "proxy")]
pub use door::{
    AdminAccess, AdminKey, Frontend, FrontendConfig, FrontendService, ProgramMetrics,
    ProgramProblems,
};
#[cfg(feature = "proxy")]
pub use fleet::{
    Fleet, InvalidNetwork, InvalidWorkerKey, Network, Networks, Resolve, ResolveError, Resolving,
    SystemResolver, WorkerKey,
};
#[cfg(feature = "proxy")]
pub use hold::Hold;
#[cfg(feature = "proxy")]
pub use meter::{
    AccessEnd, AccessLog, AccessRecord, SpanId, Trace, TraceId, TracedAttempt, Traces,
    UnknownUsageMode, UsageMode,
};
#[cfg(feature = "proxy")]
pub use priority::{Priority, PriorityMode, UnknownPriority};
#[cfg(feature = "proxy")]
pub use proxy::{Isolation, Served, ShortSecret};
#[cfg(feature = "serve")]
pub use serve::{Connections, ServeOptions, serve};
#[cfg(feature = "serve")]
pub use threads::Threads;
#[cfg(feature = "tls")]
pub use tls::{ClientAuth, ServerTls, TlsError, WorkerTls};

/// The features of this crate that are built in, by their names in its manifest.
pub const FEATURES: &[&str] = &[
    #[cfg(feature = "decompress")]
    "decompress",
    #[cfg(feature = "fuzzing")]
    "fuzzing",
    #[cfg(feature = "proxy")]
    "proxy",
    #[cfg(feature = "serve")]
    "serve",
    #[cfg(feature = "tls")]
    "tls",
];
