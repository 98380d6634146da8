//! The programs `dynamo-frontend`, `dynamo-worker` and `dynamo-worker-config`.

mod echo;
mod engine;
mod environment;
mod failure;
pub mod frontend;
mod logging;
mod program;
pub mod reference;
mod runtime;
mod settings;
pub mod worker;
pub mod worker_config;

pub use echo::EchoEngine;
