//! The programs `dynamo-frontend`, `dynamo-worker` and `dynamo-worker-config`.
//!
//! This is the only crate that reads the environment, picks a storage backend, and prints. What it
//! composes is in the crates below it; `examples/embedded.rs` shows how to compose it oneself. Of
//! use to others is the [`EchoEngine`].
//!
//! - `settings`: one table of flags, variables and defaults, from which help texts and the
//!   reference are made, and how they are resolved.
//! - [`frontend`], [`worker`], [`worker_config`]: one module for each program.
//! - `engine`: what one asks an OpenAI-compatible server; `echo`: one that is built in.
//! - `hash_key`: the subcommand of the frontend that makes keys.
//! - `program`, `failure`, `logging`, `environment`, `runtime`, `followed_file`: what programs share.

mod echo;
mod engine;
mod environment;
mod failure;
mod followed_file;
pub mod frontend;
mod hash_key;
mod logging;
mod program;
pub mod reference;
mod runtime;
mod settings;
pub mod worker;
pub mod worker_config;

pub use echo::EchoEngine;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
