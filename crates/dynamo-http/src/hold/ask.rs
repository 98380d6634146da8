//! Asking a server whether it answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::fleet::{Finding, Fleet, Upstream};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who asks.
#[cfg_attr(test, mockall::automock)]
pub(crate) trait Ask: Send + Sync + 'static {
    /// Asks one server; within a second it has answered or not.
    fn ask(&self, server: &Arc<Upstream>) -> BoxFuture<'static, Finding>;
}

/// Asks as the proxy does, on a connection of its own.
impl Ask for Fleet {
    fn ask(&self, server: &Arc<Upstream>) -> BoxFuture<'static, Finding> {
        let (fleet, server) = (self.clone(), server.clone());
        async move { fleet.probe(&server.url, PATIENCE).await }.boxed()
    }
}
