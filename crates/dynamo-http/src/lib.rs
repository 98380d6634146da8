//! Routes that open and close with the models behind them, and a streaming OpenAI-compatible proxy.
//!
//! Data runs one way: discovery → [`Feed`] → [`Switchboard`] → [`View`] → route → worker.
//!
//! - [`Switchboard`] turns model updates into views; readers take no lock.
//! - [`gate`] is a layer that toggles the routes of anyone's own axum `Router`.
//! - [`Frontend`], behind the default feature `proxy`, is the whole front door, and [`serve`] serves
//!   it with deadlines and limits.
//!
//! This crate knows discovery's types and no storage backend.

mod error;
mod feed;
mod gate;
#[cfg_attr(not(feature = "proxy"), path = "hold/absent.rs")]
mod hold;
mod live;
mod route;
mod scopes;
mod switchboard;
mod upstream;
mod view;

#[cfg(feature = "proxy")]
mod access;
#[cfg(feature = "proxy")]
mod frontend;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "proxy")]
mod joined;
#[cfg(feature = "proxy")]
mod network;
#[cfg(feature = "proxy")]
mod proxy;
#[cfg(feature = "proxy")]
mod serve;
#[cfg(feature = "proxy")]
mod service;
#[cfg(feature = "proxy")]
mod system;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "proxy")]
mod worker_key;

pub use error::{ApiError, ErrorShape};
pub use feed::{DiscoveryStatus, Feed, Source, SourceStatus};
pub use gate::{Gate, GateLayer, gate};
pub use live::LiveView;
pub use route::Route;
pub use scopes::{FeedEnded, Scopes};
pub use switchboard::{RouteChange, Switchboard, SwitchboardWriter, update_http_endpoints};
pub use view::{Model, View};

#[cfg(feature = "proxy")]
pub use access::{
    ApiKey, ApiKeys, InvalidKeyHash, InvalidKeyName, InvalidKeys, KeyHash, KeyList, KeyName,
    WeakKey,
};
#[cfg(feature = "proxy")]
pub use frontend::{Frontend, FrontendConfig};
#[cfg(feature = "proxy")]
pub use hold::Hold;
#[cfg(feature = "proxy")]
pub use network::{InvalidNetwork, Network};
#[cfg(feature = "proxy")]
pub use proxy::{RouterMode, UnknownRouterMode};
#[cfg(feature = "proxy")]
pub use serve::{Cores, ServeOptions, serve};
#[cfg(feature = "proxy")]
pub use service::FrontendService;
#[cfg(feature = "tls")]
pub use tls::{ServerTls, TlsError, WorkerTls};
#[cfg(feature = "proxy")]
pub use worker_key::{InvalidWorkerKey, WorkerKey};

#[cfg(all(doctest, feature = "proxy"))]
#[doc = include_str!("../README.md")]
struct Readme;
