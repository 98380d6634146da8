//! Comments that keep a silent stream of events alive.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::fleet::Patience;

/// A comment and an empty line. Readers of event streams skip it (HTML standard, server-sent events).
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Puts a comment into a stream that is silent for too long, so that proxies and clients with
/// deadlines of their own do not take it for dead.
pub(crate) struct KeepAlive {
    silence: Patience,
}

impl KeepAlive {
    /// One for a stream that may be silent for so long.
    pub(crate) fn new(silence: Duration) -> Self {
        Self { silence: Patience::new(silence) }
    }

    /// Notes that bytes go to the client.
    pub(crate) fn passed(&mut self) {
        self.silence.renew();
    }

    /// Ready with a comment when the client has got nothing for too long, and the stream is between
    /// two events. It is called when the stream is silent.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, is_between: bool) -> Poll<Bytes> {
        loop {
            std::task::ready!(self.silence.poll_over(cx));
            // In the middle of an event nothing changes before the next bytes come.
            self.silence.renew();
            if is_between {
                return Poll::Ready(Bytes::from_static(COMMENT));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, advance, timeout};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn there_is_one_comment_for_each_span_of_silence() {
        let mut keep_alive = KeepAlive::new(SILENCE);
        let began = Instant::now();
        for seconds in [15, 30, 45] {
            let comment = poll_fn(|cx| keep_alive.poll(cx, true)).await;
            assert_eq!(comment, ": keep-alive\n\n");
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
        advance(Duration::from_secs(10)).await;
        keep_alive.passed();
        poll_fn(|cx| keep_alive.poll(cx, true)).await;
        assert_eq!(began.elapsed().as_secs(), 70, "bytes begin a new span");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_none_within_an_event() {
        let mut keep_alive = KeepAlive::new(SILENCE);
        let within = poll_fn(|cx| keep_alive.poll(cx, false));
        assert!(timeout(SILENCE * 10, within).await.is_err());
        let began = Instant::now();
        keep_alive.passed();
        poll_fn(|cx| keep_alive.poll(cx, true)).await;
        assert_eq!(began.elapsed(), SILENCE);
    }
}
