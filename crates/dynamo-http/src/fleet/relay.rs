//! Wake-ups between the parts of one task, which need not wake it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

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

    /// Polls the parts for what they have now. Only after a `poll` that was ready, and before the
    /// next: that one wakes the task for what comes later, and this does not.
    pub(crate) fn poll_now<T>(&self, parts: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        debug_assert_eq!(self.shared.phase.load(Ordering::Relaxed), WOKEN, "nobody polls again");
        parts(&mut Context::from_waker(Waker::noop()))
    }

    /// No task is to be woken any more; the next one polls.
    pub(crate) fn release(&self) {
        self.shared.task.take();
        self.shared.phase.store(WOKEN, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn seen(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_wake_up_from_within_polls_again_and_one_from_outside_wakes_the_task() {
        let (relay, task) = (Relay::new(), Arc::new(Count::default()));
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        let mut kept = None;
        let mut polls = 0;
        let polled = relay.poll(&mut cx, |cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
            }
            kept = Some(cx.waker().clone());
            Poll::<()>::Pending
        });
        assert_eq!((polled, polls, task.seen()), (Poll::Pending, 2, 0));
        kept.as_ref().unwrap().wake_by_ref();
        kept.as_ref().unwrap().wake_by_ref();
        assert_eq!(task.seen(), 1, "woken once for all that happened before it polled");
        assert!(relay.poll(&mut cx, |_| Poll::Ready(())).is_ready());
        assert!(relay.poll(&mut cx, |_| Poll::<()>::Pending).is_pending());
        kept.as_ref().unwrap().wake_by_ref();
        assert_eq!(task.seen(), 2);
        relay.release();
        kept.unwrap().wake();
        assert_eq!(task.seen(), 2, "released");
    }

    #[test]
    fn a_poll_for_now_leaves_it_to_the_next_one_to_have_the_task_woken() {
        let (relay, task) = (Relay::new(), Arc::new(Count::default()));
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        let mut last = None;
        let mut part = |cx: &mut Context<'_>| {
            last = Some(cx.waker().clone());
            Poll::<()>::Pending
        };
        assert!(relay.poll(&mut cx, |_| Poll::Ready(())).is_ready());
        assert!(relay.poll_now(&mut part).is_pending());
        assert!(relay.poll(&mut cx, &mut part).is_pending());
        last.unwrap().wake();
        assert_eq!(task.seen(), 1);
    }

    #[test]
    fn parts_that_nobody_woke_are_polled_again_only_for_another_task() {
        let relay = Relay::new();
        let waker = Waker::from(Arc::new(Count::default()));
        let mut cx = Context::from_waker(&waker);
        let mut polls = 0;
        let mut poll = |cx: &mut Context<'_>| {
            relay.poll(cx, |_| {
                polls += 1;
                Poll::<()>::Pending
            })
        };
        assert!(poll(&mut cx).is_pending() && poll(&mut cx).is_pending());
        relay.release();
        assert!(poll(&mut cx).is_pending());
        assert_eq!(polls, 2);
    }

    #[test]
    fn parts_that_always_wake_themselves_let_others_have_a_turn() {
        let (relay, task) = (Relay::new(), Arc::new(Count::default()));
        let waker = Waker::from(task.clone());
        let mut polls = 0;
        let polled = relay.poll(&mut Context::from_waker(&waker), |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!((polled, polls, task.seen()), (Poll::Pending, AT_ONCE, 1));
    }
}
