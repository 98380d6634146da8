//! The runtime that the programs run on.

use std::time::Duration;

use anyhow::Context as _;

use crate::failure::Failure;

/// Runs a program's future to its end.
pub(crate) fn block_on<T>(program: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Running)?;
    let ended = runtime.block_on(program);
    // A name that is still being looked up would hold the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}
