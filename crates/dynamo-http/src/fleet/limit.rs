//! How many requests each server may have in flight.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// How many requests each server may have in flight. It may change at any time.
#[derive(Debug, Default)]
pub(crate) struct ConcurrencyLimit(
    /// 0 for any number.
    AtomicUsize,
);

impl ConcurrencyLimit {
    pub(crate) fn new(most: Option<NonZeroUsize>) -> Self {
        Self(AtomicUsize::new(most.map_or(0, NonZeroUsize::get)))
    }

    /// The limit of now; `None` for any number.
    pub(crate) fn most(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.0.load(SeqCst))
    }
}
