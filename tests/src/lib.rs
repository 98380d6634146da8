//! The helpers of the integration tests: stores, engines, front doors, programs and a client.
//!
//! Each test has a root or a namespace of its own, so all tests can run at once against one etcd.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]
#![allow(missing_debug_implementations, reason = "nobody prints the fixtures")]

mod certificates;
mod client;
mod cluster;
mod compose;
mod engine;
mod entry;
mod etcd;
mod frontend;
pub mod invariants;
mod load;
mod logs;
mod name_server;
mod network;
mod program;
mod scripted_engine;
mod space;
mod users;
mod wait;

pub use certificates::Certificates;
pub use client::{Answer, Client, connected, lists};
pub use cluster::Cluster;
pub use compose::ComposeCluster;
pub use engine::{Engine, Generation};
pub use entry::{create_test_model_entry, flat_key, native_key};
pub use etcd::{Before, Etcd, SharedEtcd, free_port};
pub use frontend::Frontend;
pub use load::Load;
pub use logs::Logs;
pub use name_server::{NameServer, Says};
pub use network::{BlackHole, Link, Network, REFUSED, UNKNOWN};
pub use program::Program;
pub use scripted_engine::{Answers, Prompt, ScriptedEngine};
pub use space::{Space, Worker, unique};
pub use users::Users;
pub use wait::{becomes, eventually, reaches, soon};
