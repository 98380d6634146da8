//! The runtime that the programs run on.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context as _;

use crate::failure::Failure;

/// Runs a program's future to its end, and its tasks on `threads` threads; `None` means one thread
/// for each CPU.
pub(crate) fn block_on<T>(
    threads: Option<NonZeroUsize>,
    program: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    let runtime = builder
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Running)?;
    let ended = runtime.block_on(program);
    // Otherwise a name that is still being resolved would delay the end of the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}
