//! Wake-ups between the parts of one task, which need not wake it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

#[cfg(test)]
mod tests;

/// Stands between parts that wake each other and the one task that polls them all.
///
/// A connection, the answer that is waited for and its body tell each other by wake-ups what they
/// have done. Where one task polls them, each of those would have it polled once more for nothing.
/// Here they only have the parts polled again, at once; what wakes the task is what comes from
/// outside while nobody polls. And where the task was woken for something else, the parts are left
/// alone.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    /// Made once of `shared`.
    waker: Waker,
    /// The same as `shared.task`, at hand without a lock.
    task: Option<Waker>,
}

struct Shared {
    phase: AtomicU8,
    /// What wakes the task. It stays here when it wakes, so that it need not be given for each poll.
    task: Mutex<Option<Waker>>,
}

/// Nobody polls, and there is nothing to poll for: a wake-up is for the task.
const RESTING: u8 = 0;
/// The parts are polled and have not been woken since.
const POLLING: u8 = 1;
/// They are to be polled.
const WOKEN: u8 = 2;

/// How often the parts are polled in a row: they may have to yield.
const AT_ONCE: usize = 4;

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.phase.swap(WOKEN, Ordering::AcqRel) == RESTING {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
            task.inspect(Waker::wake_by_ref);
        }
    }
}

impl Relay {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { phase: AtomicU8::new(WOKEN), task: Mutex::new(None) });
        Self { waker: Waker::from(shared.clone()), shared, task: None }
    }

    /// Polls the parts, again as long as they wake each other. Not at all where they were pending
    /// and nothing has woken them since.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut parts: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Shared { phase, task } = &*self.shared;
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.task);
        }
        // Only now, so that whoever ends the rest from here on wakes this task.
        if phase.load(Ordering::Acquire) == RESTING {
            return Poll::Pending;
        }
        for _ in 0..AT_ONCE {
            phase.swap(POLLING, Ordering::AcqRel);
            let polled = parts(&mut Context::from_waker(&self.waker));
            if polled.is_ready() {
                // Whoever goes on polls before it rests.
                phase.store(WOKEN, Ordering::Release);
                return polled;
            }
            let rest =
                phase.compare_exchange(POLLING, RESTING, Ordering::AcqRel, Ordering::Acquire);
            if rest.is_ok() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
