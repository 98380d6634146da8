//! The front door: its service, its pages, and the state behind them.

mod config;
mod frontend;
mod guard;
mod key_metrics;
mod logged;
mod metrics;
mod page;
mod pages;
mod program_metrics;
mod program_problems;
mod scope_metrics;
mod service;
mod state;
mod status;

pub use self::config::FrontendConfig;
pub use self::frontend::Frontend;
pub use self::guard::{AdminAccess, AdminKey};
pub use self::program_metrics::ProgramMetrics;
pub use self::program_problems::ProgramProblems;
pub use self::service::FrontendService;
