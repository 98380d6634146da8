//! The process's limit of descriptors, of which each connection takes one.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Raises the soft limit to the hard one, and logs the limit that then holds.
///
/// Shells and service managers set a soft limit of 1024 for programs that use `select`, which none
/// of ours does. A command that a worker runs may use it, and inherits the limit: such a worker must
/// not call this.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(%error, "the limit of descriptors cannot be raised");
    }
    let shown = |limit: Option<u64>| limit.map_or_else(|| "none".into(), |limit| limit.to_string());
    info!(before = %shown(current), now = %shown(limit()), "limit of descriptors");
}

/// How many descriptors the process may have; none if there is no limit.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many connections of clients leave enough descriptors for those to workers and the store: 80 %
/// of what the process may have.
pub(crate) fn most_connections() -> Option<NonZeroUsize> {
    let most = limit()? / 5 * 4;
    NonZeroUsize::new(usize::try_from(most).ok()?)
}
