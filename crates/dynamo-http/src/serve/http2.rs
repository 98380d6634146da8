//! HTTP/2 on one connection.
//!
//! hyper bounds what a client may have reset and not yet been rid of, and how long a list of headers
//! may go on; what else is bounded is here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Sleep, sleep};

use super::answers::Answers;
use super::clock::Clock;
use super::options::ServeOptions;
use crate::error::ApiError;

/// What a connection begins with when the client knows that we speak HTTP/2 (RFC 9113, section 3.4).
/// No request of HTTP/1 begins with it.
pub(super) const PREFACE: [u8; 3] = *b"PRI";

/// What a client may send of one body before we take it, and of all bodies of one connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A peer that is gone without a word is noticed within twice this.
const PING: Duration = Duration::from_secs(20);
/// How long an error waits before it resets a stream, which would drop what is not sent yet.
const LAST_WORDS: Duration = Duration::from_millis(50);

pub(super) fn builder(options: &ServeOptions) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// Answers one of many requests.
pub(super) fn answer<S: Answers>(
    service: &S,
    clock: &Arc<Clock>,
    max_headers: usize,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Streaming>, Infallible>> + use<S> {
    let open = OpenStream::new(clock.clone());
    let answer = check(request.headers(), max_headers).map(|()| {
        join_cookies(request.headers_mut());
        service.clone().call(request)
    });
    async move {
        let response = match answer {
            Ok(answer) => answer.await?,
            Err(refused) => refused.into_response(),
        };
        Ok(response.map(|body| Streaming { body, open, failed: None }))
    }
}

fn check(headers: &HeaderMap, max_headers: usize) -> Result<(), ApiError> {
    if headers.len() > max_headers {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(ApiError::new(status, "The request has too many headers."));
    }
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        let message = "A request has at most one Host header.";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(())
}

/// HTTP/2 may split cookies over several headers, and HTTP/1 may not (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<_> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// A stream that the connection's clock counts.
struct OpenStream {
    clock: Arc<Clock>,
    /// Whether it has given something and was not asked for more yet.
    holds: bool,
}

impl OpenStream {
    fn new(clock: Arc<Clock>) -> Self {
        clock.stream_began();
        Self { clock, holds: false }
    }

    fn holds(&mut self, holds: bool) {
        match (self.holds, holds) {
            (false, true) => self.clock.stream_holds(),
            (true, false) => self.clock.stream_moved(),
            _ => {}
        }
        self.holds = holds;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.holds(false);
        self.clock.stream_ended();
    }
}

/// An answer's body.
pub(super) struct Streaming {
    body: Body,
    open: OpenStream,
    /// It failed, and says so when what came before has been sent.
    failed: Option<(axum::Error, Pin<Box<Sleep>>)>,
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        this.open.holds(false);
        if this.failed.is_none() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Err(error)) => this.failed = Some((error, Box::pin(sleep(LAST_WORDS)))),
                frame => {
                    this.open.holds(frame.is_some());
                    return Poll::Ready(frame);
                }
            }
        }
        if let Some((_, last_words)) = &mut this.failed {
            ready!(last_words.as_mut().poll(cx));
        }
        Poll::Ready(this.failed.take().map(|(error, _)| Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_cookies_are_one_header_again() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2"] {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
