//! How long to wait for a worker, without a timer for each wait.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A time limit that is renewed often and hardly ever passes.
///
/// Its timer is made when it is first waited for, and set again only when it fires: so it may be
/// renewed for every request and every frame at the cost of reading the clock.
pub(crate) struct Patience {
    limit: Duration,
    /// How often it is looked whether to give up earlier.
    glance: Duration,
    since: Instant,
    timer: Option<Timer>,
}

/// A timer that is polled only where that changes something. Each poll would fetch the timer from memory.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it fires.
    at: Instant,
    /// Whom it will wake.
    wakes: Option<Waker>,
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(at)), at, wakes: None }
    }

    fn reset(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at);
        // It wakes nobody before it is polled again.
        (self.at, self.wakes) = (at, None);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let will_wake = self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker()));
        if will_wake && Instant::now() < self.at {
            return Poll::Pending;
        }
        // Unconstrained, since a timer that is pending for a lack of budget will wake nobody.
        let fired = pin!(unconstrained(self.sleep.as_mut())).poll(cx);
        if fired.is_pending() && !will_wake {
            self.wakes = Some(cx.waker().clone());
        }
        fired
    }
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, glance: limit, since: Instant::now(), timer: None }
    }

    /// One that may end earlier, which it looks at so often.
    pub(crate) fn with_glances(self, glance: Duration) -> Self {
        Self { glance, ..self }
    }

    /// Begins anew; returns when that was.
    pub(crate) fn renew(&mut self) -> Instant {
        self.since = Instant::now();
        self.since
    }

    /// Ready when the limit has passed since the last renewal.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_over_or(cx, || false).map(|_end| ())
    }

    /// Ready when the limit has passed since the last renewal, or when a glance finds that it is
    /// time to give up.
    pub(crate) fn poll_over_or(
        &mut self,
        cx: &mut Context<'_>,
        give_up: impl Fn() -> bool,
    ) -> Poll<End> {
        loop {
            let deadline = self.since + self.limit;
            let next = |now: Instant| deadline.min(now + self.glance);
            let timer = self.timer.get_or_insert_with(|| Timer::new(next(self.since)));
            ready!(timer.poll(cx));
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(End::Late);
            }
            if give_up() {
                return Poll::Ready(End::GivenUp);
            }
            timer.reset(next(now));
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The limit has passed.
    Late,
    /// A glance found that there is no use in waiting.
    GivenUp,
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_over_a_limit_after_the_last_renewal() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let began = Instant::now();
        for _ in 0..3 {
            let over = poll_fn(|cx| patience.poll_over(cx));
            let waited = tokio::time::timeout(Duration::from_secs(7), over).await;
            assert!(waited.is_err(), "over after 7 s of 10");
            patience.renew();
        }
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(began.elapsed().as_secs(), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_given_up_at_the_first_glance_that_says_so() {
        let glance = Duration::from_secs(1);
        let mut patience = Patience::new(Duration::from_secs(600)).with_glances(glance);
        let began = Instant::now();
        let hopeless = || began.elapsed() > Duration::from_millis(3500);
        assert_eq!(poll_fn(|cx| patience.poll_over_or(cx, hopeless)).await, End::GivenUp);
        assert_eq!(began.elapsed().as_secs(), 4);
        patience.renew();
        assert_eq!(poll_fn(|cx| patience.poll_over_or(cx, || false)).await, End::Late);
        assert_eq!(began.elapsed().as_secs(), 604);
    }

    /// How long a patience of 10 s lasts in a task of its own, if it was polled by another task before.
    async fn lasts(mut patience: Patience) -> u64 {
        let began = Instant::now();
        let waits = tokio::spawn(async move { poll_fn(|cx| patience.poll_over(cx)).await });
        // The clock is paused, so it only goes on where nobody is awake.
        tokio::time::timeout(Duration::from_secs(60), waits).await.expect("it wakes").unwrap();
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_the_task_that_polled_it_last() {
        let mut patience = Patience::new(Duration::from_secs(10));
        assert!(poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await.is_pending());
        assert_eq!(lasts(patience).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_a_task_that_had_no_budget_left() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let polled = tokio::spawn(async move {
            let polled = poll_fn(|cx| {
                while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
                Poll::Ready(patience.poll_over(cx))
            });
            assert!(polled.await.is_pending());
            poll_fn(|cx| patience.poll_over(cx)).await;
        });
        assert!(tokio::time::timeout(Duration::from_secs(60), polled).await.is_ok());
    }
}
