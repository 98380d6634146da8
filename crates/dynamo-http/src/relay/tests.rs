//! Which wake-ups reach the task.

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
    let (mut relay, task) = (Relay::new(), Arc::new(Count::default()));
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
    kept.unwrap().wake();
    assert_eq!(task.seen(), 2);
}

#[test]
fn parts_that_nobody_woke_are_not_polled_again() {
    let mut relay = Relay::new();
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
    assert_eq!(polls, 1);
}

#[test]
fn parts_that_always_wake_themselves_let_others_have_a_turn() {
    let (mut relay, task) = (Relay::new(), Arc::new(Count::default()));
    let waker = Waker::from(task.clone());
    let mut polls = 0;
    let polled = relay.poll(&mut Context::from_waker(&waker), |cx| {
        polls += 1;
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    assert_eq!((polled, polls, task.seen()), (Poll::Pending, AT_ONCE, 1));
}

#[test]
fn the_task_that_polled_last_is_woken_however_often() {
    let mut relay = Relay::new();
    let tasks = [(); 2].map(|()| Arc::new(Count::default()));
    let mut kept = None;
    for (round, task) in tasks.iter().cycle().take(6).enumerate() {
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        // At rest the parts are not polled, and the task changes all the same.
        for _ in 0..2 {
            let polled = relay.poll(&mut cx, |cx| {
                kept = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
        }
        kept.as_ref().unwrap().wake_by_ref();
        assert_eq!(task.seen(), round / 2 + 1);
    }
    assert_eq!(tasks.map(|task| task.seen()), [3, 3]);
}

#[test]
fn a_wake_up_that_comes_late_does_not_take_the_next_one_away() {
    let (mut relay, task) = (Relay::new(), Arc::new(Count::default()));
    let waker = Waker::from(task.clone());
    let mut cx = Context::from_waker(&waker);
    let mut poll = |relay: &mut Relay| relay.poll(&mut cx, |_| Poll::<()>::Pending).is_pending();
    assert!(poll(&mut relay));
    // Another thread ends the rest, and has not woken the task yet.
    relay.shared.phase.store(WOKEN, Ordering::Release);
    assert!(poll(&mut relay));
    // It does so when the parts rest again.
    relay.shared.task.lock().unwrap().as_ref().unwrap().wake_by_ref();
    assert!(poll(&mut relay));
    relay.waker.wake_by_ref();
    assert_eq!(task.seen(), 2);
}
