//! Wake-ups between the parts of one task, which need not wake it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

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
}

struct Shared {
    phase: AtomicU8,
    task: AtomicWaker,
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
            self.task.wake();
        }
    }
}

impl Relay {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { phase: AtomicU8::new(WOKEN), task: AtomicWaker::default() });
        Self { waker: Waker::from(shared.clone()), shared }
    }

    /// Polls the parts, again as long as they wake each other. Not at all where they were pending
    /// and nothing has woken them since.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut parts: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Shared { phase, task } = &*self.shared;
        task.register(cx.waker());
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
