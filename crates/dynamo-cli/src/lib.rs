//! The programs `dynamo-frontend`, `dynamo-worker`, `dynamo-worker-config` and `dynamo-models`.
//!
//! This is the only crate that reads the environment, picks a storage backend, and prints. It
//! composes the layers of the crates below; `examples/embedded.rs` shows how another program
//! composes them. The public type for other programs is [`EchoEngine`].
//!
//! - `settings`: one table of flags, variables and defaults, from which help texts and the
//!   reference are made, and the rules by which settings are resolved.
//! - [`frontend`], [`worker`], [`worker_config`], [`models`]: one module for each program.
//! - `engine`: the client of an OpenAI-compatible server; `echo`: a built-in server of that kind.
//! - `hash_key`: the subcommand of the frontend that makes keys.
//! - `process_metrics`: the standard metrics of a process.
//! - `certificates`: when the certificates of a process end.
//! - `cgroup`: how much memory the process may have.
//! - `import`: files of other gateways, translated into a configuration file.
//! - `tools`: what every program can do beside its work.
//! - `program`, `failure`, `logging`, `environment`, `runtime`, `followed_file`, `changed_file`,
//!   `key_file`, `descriptors`, `queue`: shared by the programs.

mod certificates;
mod cgroup;
mod changed_file;
mod descriptors;
mod echo;
mod engine;
mod environment;
mod failure;
mod followed_file;
pub mod frontend;
mod hash_key;
mod import;
mod key_file;
mod logging;
pub mod models;
mod process_metrics;
mod program;
mod queue;
pub mod reference;
mod runtime;
mod settings;
mod tools;
mod version;
pub mod worker;
pub mod worker_config;

pub use echo::EchoEngine;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
