//! What a listener counts.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a listener counts. A clone is the same counts.
///
/// [`ServeOptions::with_connections`](crate::ServeOptions::with_connections) has a listener count
/// here.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    /// 0 where there is none.
    limit: AtomicUsize,
    refused: AtomicU64,
    accept_errors: AtomicU64,
}

/// A connection that counts as open until this is dropped.
pub(super) struct Open(Connections);

impl Connections {
    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// How many connections the listener takes, if that is
    /// [limited](crate::ServeOptions::with_max_connections).
    pub fn limit(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.counts.limit.load(Ordering::Relaxed))
    }

    pub(super) fn note_limit(&self, limit: Option<NonZeroUsize>) {
        self.counts.limit.store(limit.map_or(0, NonZeroUsize::get), Ordering::Relaxed);
    }

    /// How many connections were refused because of a limit.
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// How often no connection could be accepted, such as for want of descriptors.
    pub fn accept_errors(&self) -> u64 {
        self.counts.accept_errors.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) -> Open {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    pub(super) fn count_refused(&self) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_accept_error(&self) {
        self.counts.accept_errors.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}
