//! How long to wait for a worker, without a timer for each wait.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

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
    timer: Option<Pin<Box<Sleep>>>,
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
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next(self.since))));
            std::task::ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(End::Late);
            }
            if give_up() {
                return Poll::Ready(End::GivenUp);
            }
            timer.as_mut().reset(next(now));
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
}
