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
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: None }
    }

    /// Begins anew.
    pub(crate) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when the limit has passed since the last renewal.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.since + self.limit;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            std::task::ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
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
}
