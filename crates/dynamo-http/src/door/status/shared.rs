//! What the status needs beside the state of the front door.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::history::History;
use super::snapshot::Snapshot;
use crate::door::page::Page;

/// How many streams of events there may be at once.
pub(super) const STREAMS: usize = 16;

/// What the status needs beside the state of the front door.
pub(in crate::door) struct Status {
    history: Mutex<History>,
    /// Whether a task notes the counts for the history.
    is_noted: AtomicBool,
    pub(super) snapshot: Page<Option<Arc<Snapshot>>>,
    pub(super) streams: Arc<Semaphore>,
}

impl Status {
    pub(in crate::door) fn new() -> Self {
        Self {
            history: Mutex::default(),
            is_noted: AtomicBool::new(false),
            snapshot: Page::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// Whether the caller is the first, and so is the one that has the counts noted.
    pub(super) fn is_first_to_note(&self) -> bool {
        !self.is_noted.swap(true, Ordering::Relaxed)
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        // A note is one call, so a panic elsewhere leaves the history whole.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
