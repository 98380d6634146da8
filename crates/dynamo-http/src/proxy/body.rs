//! Reading a request's body within its limits.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crossbeam_utils::CachePadded;
use http::StatusCode;
use http_body::Body;

use crate::error::ApiError;
use crate::fleet::Patience;

/// How much of request bodies may be in memory, one and all.
#[derive(Debug)]
pub(crate) struct BodyLimits {
    /// The largest body, in bytes.
    pub(crate) each: usize,
    /// How long a client may send nothing in the middle of one.
    pub(crate) stall: Duration,
    /// What all of them share.
    pub(crate) memory: Memory,
}

/// The bytes that all bodies in memory may have in sum.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Apart from what is only read: every request writes it.
    free: CachePadded<AtomicUsize>,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { free: CachePadded::new(AtomicUsize::new(bytes)) }
    }
}

/// A body in memory; what it took of the bound is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct InMemory<'a> {
    pub(crate) bytes: Bytes,
    _reserved: Reserved<'a>,
}

#[derive(Debug)]
struct Reserved<'a> {
    memory: &'a Memory,
    bytes: usize,
}

impl Reserved<'_> {
    /// Takes `more` bytes. By what has arrived, not by what was announced: else a few clients that
    /// announce much and send nothing would lock out all others.
    fn grow(&mut self, more: usize) -> Result<(), ApiError> {
        self.memory
            .free
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |free| free.checked_sub(more))
            .map_err(|_| {
                ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many request bodies are in flight; try again shortly.",
                )
                .with_code("overloaded")
            })?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.memory.free.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

impl BodyLimits {
    /// Reads a body once, into one piece of memory.
    pub(crate) async fn read<B: Body<Data = Bytes>>(
        &self,
        body: B,
    ) -> Result<InMemory<'_>, ApiError> {
        let mut body = pin!(body);
        let mut patience = Patience::new(self.stall);
        let announced = body.size_hint().lower();
        if announced > self.each as u64 {
            return Err(self.too_large());
        }
        let mut reserved = Reserved { memory: &self.memory, bytes: 0 };
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while !body.is_end_stream() {
            let next = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                Poll::Pending => patience.poll_over(cx).map(Err),
            });
            let frame = match next.await {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => {
                    return Err(ApiError::new(
                        StatusCode::BAD_REQUEST,
                        "The request body ended too early.",
                    ));
                }
                Err(()) => {
                    return Err(ApiError::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "The request body stopped arriving.",
                    ));
                }
            };
            patience.renew();
            let Ok(data) = frame.into_data() else { continue };
            if reserved.bytes + data.len() > self.each {
                return Err(self.too_large());
            }
            reserved.grow(data.len())?;
            if reserved.bytes == data.len() {
                // Most bodies arrive in one piece, which is forwarded as it is.
                first = data;
            } else {
                if joined.is_empty() {
                    // What was announced is trusted only so far.
                    joined.reserve((announced as usize).clamp(first.len() + data.len(), 1 << 20));
                    joined.extend_from_slice(&first);
                    first = Bytes::new();
                }
                joined.extend_from_slice(&data);
            }
        }
        let bytes = if joined.is_empty() { first } else { joined.freeze() };
        Ok(InMemory { bytes, _reserved: reserved })
    }

    fn too_large(&self) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request body is larger than {} bytes.", self.each),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures_util::stream;

    use super::*;

    fn limits(each: usize, all: usize) -> BodyLimits {
        BodyLimits { each, stall: Duration::from_secs(30), memory: Memory::new(all) }
    }

    fn chunks(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok::<_, Infallible>(Bytes::from(*c))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_one_piece_and_in_many() {
        for body in [chunks(&["abcdef"]), chunks(&["ab", "", "cd", "ef"]), Body::from("abcdef")] {
            assert_eq!(limits(6, 6).read(body).await.unwrap().bytes, "abcdef");
        }
        assert_eq!(limits(6, 6).read(Body::empty()).await.unwrap().bytes, "");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_announced_or_not() {
        for body in [chunks(&["abcd", "efg"]), Body::from("abcdefg")] {
            let error = limits(6, 100).read(body).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded_and_give_back_what_they_took() {
        let limits = limits(6, 10);
        let first = limits.read(Body::from("abcdef")).await.unwrap();
        let error = limits.read(chunks(&["abc", "def"])).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        let second = limits.read(Body::from("abcd")).await.unwrap();
        drop((first, second));
        assert_eq!(limits.memory.free.load(Ordering::Relaxed), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_arriving_is_given_up() {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from("a"))]);
        let body = Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()));
        let error = limits(6, 10).read(body).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
