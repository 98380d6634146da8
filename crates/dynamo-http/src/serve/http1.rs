//! HTTP/1.1 on one connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;

use super::answers::Answers;
use super::clock::Clock;
use super::drain::Leaving;
use super::options::ServeOptions;
use crate::error::ApiError;

pub(super) fn builder(options: &ServeOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Ours, since hyper's would also run while a kept-alive connection is idle.
        .header_read_timeout(None)
        .max_buf_size(options.max_header_bytes.max(8192))
        .max_headers(options.max_headers);
    builder
}

/// Answers one request after the other.
pub(super) fn answer<S: Answers>(
    service: &S,
    clock: &Arc<Clock>,
    leaving: &Leaving,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answering>, Infallible>> + use<S> {
    clock.answering(!request.body().is_end_stream());
    let old_client = request.version() == Version::HTTP_10;
    let answer = names_one_host(&request).then(|| service.clone().call(request));
    let (clock, leaving) = (clock.clone(), leaving.clone());
    async move {
        let mut response = match answer {
            Some(answer) => answer.await?,
            None => without_host(),
        };
        if leaving.is_set() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // hyper sends such an answer without a length and without chunks.
        if old_client && !has_length(&response) {
            clock.answer_ends_with_connection();
        }
        Ok(response.map(|body| Answering { body, clock }))
    }
}

fn has_length(response: &Response) -> bool {
    response.headers().contains_key(header::CONTENT_LENGTH)
        || response.body().size_hint().exact().is_some()
}

/// Whether it is clear whom a request is for (RFC 9112, section 3.2).
fn names_one_host(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = hosts.next().is_some() || request.version() == Version::HTTP_10;
    named && hosts.next().is_none()
}

fn without_host() -> Response {
    let error = ApiError::new(StatusCode::BAD_REQUEST, "A request needs exactly one Host header.");
    let mut response = error.into_response();
    // Whoever sends such a request may not agree with us on where the next one begins.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An answer's body; when it is dropped, the connection is idle.
pub(super) struct Answering {
    body: Body,
    clock: Arc<Clock>,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.clock.answered();
    }
}
