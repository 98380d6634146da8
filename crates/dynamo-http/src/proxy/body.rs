//! Reading a request's body within its limits.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use http::StatusCode;
use http_body::Body;

use crate::error::ApiError;
use crate::fleet::Patience;
use crate::live::Live;

/// The least rate at which a body arrives, in bytes per second.
const LEAST_RATE: u128 = 1024;
/// The first size of a buffer for a body. It doubles, so a client that announces much and sends little
/// takes little.
const FIRST_BUFFER: usize = 64 * 1024;
/// When this part of an announced body has come, all of it gets its place. Were the buffer to double
/// to the end, its former sizes would take as much memory again: allocators keep them.
const PROVEN_PART: usize = 8;

/// How much memory request bodies may take, each and all together.
#[derive(Debug)]
pub(crate) struct BodyLimits {
    /// The largest body, in bytes.
    pub(crate) each: Live<usize>,
    /// The time in which a body that goes on must bring 1 KiB for each second.
    pub(crate) stall: Live<Duration>,
    /// The memory that all bodies share.
    pub(crate) memory: Memory,
}

/// The memory of all bodies, in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Every request writes this. Padding keeps it apart from memory that is only read.
    taken: CachePadded<AtomicUsize>,
    limit: Live<usize>,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { taken: CachePadded::default(), limit: Live::new(bytes) }
    }

    /// How much there is in all, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit.now()
    }

    /// Sets how much there is in all. What is taken stays so, even if that is more.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.set(bytes);
    }

    /// How much of it is taken, in bytes.
    pub(crate) fn used(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes memory before it is allocated. Dropping the result gives it back.
    ///
    /// # Errors
    ///
    /// 503 when all bodies together would take too much.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reserved<'_>, ApiError> {
        let mut reserved = Reserved { memory: self, bytes: 0 };
        reserved.grow(bytes)?;
        Ok(reserved)
    }
}

/// A body in memory. Dropping it gives its memory back.
#[derive(Debug)]
pub(crate) struct InMemory<'a> {
    pub(crate) bytes: Bytes,
    pub(super) _reserved: Reserved<'a>,
}

/// Memory that is taken.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    memory: &'a Memory,
    bytes: usize,
}

impl Reserved<'_> {
    /// Takes `more` bytes.
    fn grow(&mut self, more: usize) -> Result<(), ApiError> {
        let limit = self.memory.limit();
        let fits = |taken: usize| taken.checked_add(more).filter(|taken| *taken <= limit);
        self.memory.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).map_err(
            |_| {
                ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many request bodies are in flight; try again shortly.",
                )
                .with_code("overloaded")
            },
        )?;
        self.bytes += more;
        Ok(())
    }

    /// Gives `less` bytes back.
    fn shrink(&mut self, less: usize) {
        self.memory.taken.fetch_sub(less, Ordering::AcqRel);
        self.bytes -= less;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What is known of a body's length before it has come.
#[derive(Clone, Copy)]
pub(super) enum Length {
    Announced(usize),
    AtMost(usize),
}

impl Length {
    /// The next size of a buffer of this size that needs more.
    fn grown(self, before: usize, needed: usize) -> usize {
        let grown = match self {
            Self::Announced(length) if needed >= length / PROVEN_PART => length,
            Self::Announced(most) | Self::AtMost(most) => (before * 2).max(FIRST_BUFFER).min(most),
        };
        grown.max(needed)
    }
}

/// A buffer whose whole capacity is reserved, also while it grows.
pub(super) struct Buffer<'a> {
    bytes: Vec<u8>,
    reserved: Reserved<'a>,
}

impl<'a> Buffer<'a> {
    pub(super) fn new(memory: &'a Memory) -> Self {
        Self { bytes: Vec::new(), reserved: Reserved { memory, bytes: 0 } }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends data of a body of this length.
    pub(super) fn extend(&mut self, data: &[u8], length: Length) -> Result<(), ApiError> {
        let needed = self.bytes.len() + data.len();
        let before = self.bytes.capacity();
        if needed > before {
            let capacity = length.grown(before, needed);
            // The old buffer lives until its content is copied.
            self.reserved.grow(capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
            self.reserved.shrink(before);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(super) fn into_body(self) -> InMemory<'a> {
        InMemory { bytes: self.bytes.into(), _reserved: self.reserved }
    }
}

impl BodyLimits {
    /// Reads a body once, into one piece of memory.
    pub(crate) async fn read<B: Body<Data = Bytes>>(
        &self,
        body: B,
    ) -> Result<InMemory<'_>, ApiError> {
        let mut body = pin!(body);
        let (each, stall) = (self.each.now(), self.stall.now());
        let mut patience = Patience::new(stall);
        let announced = body.size_hint();
        if announced.lower() > each as u64 {
            return Err(too_large(each));
        }
        let exact = announced.exact().map(|exact| Length::Announced(exact as usize));
        let expected = exact.unwrap_or(Length::AtMost(each));
        let per_stall = usize::try_from(LEAST_RATE * stall.as_millis() / 1000);
        let per_stall = per_stall.unwrap_or(usize::MAX);
        // The length at which the time begins anew.
        let mut renew_at = per_stall;
        // Most bodies arrive in one piece, which is forwarded as it is.
        let mut first: Option<(Bytes, Reserved<'_>)> = None;
        let mut joined = Buffer::new(&self.memory);
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
                        "The request body arrived too slowly.",
                    ));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            let before = first.as_ref().map_or(joined.len(), |(first, _)| first.len());
            let length = before + data.len();
            if length > each {
                return Err(too_large(each));
            }
            if length >= renew_at {
                patience.renew();
                renew_at = length + per_stall;
            }
            if before == 0 {
                let reserved = self.memory.reserve(data.len())?;
                first = Some((data, reserved));
                continue;
            }
            if let Some((first, _reserved)) = first.take() {
                joined.extend(&first, expected)?;
            }
            joined.extend(&data, expected)?;
        }
        Ok(match first {
            Some((bytes, reserved)) => InMemory { bytes, _reserved: reserved },
            None => joined.into_body(),
        })
    }
}

/// The answer to a body that is larger than this.
pub(super) fn too_large(each: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The request body is larger than {each} bytes."),
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures_util::stream;

    use super::*;

    fn limits(each: usize, all: usize) -> BodyLimits {
        BodyLimits {
            each: Live::new(each),
            stall: Live::new(Duration::from_secs(30)),
            memory: Memory::new(all),
        }
    }

    fn chunks(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok::<_, Infallible>(Bytes::from(*c))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_one_piece_and_in_many() {
        for body in [chunks(&["abcdef"]), chunks(&["ab", "", "cd", "ef"]), Body::from("abcdef")] {
            assert_eq!(limits(6, 12).read(body).await.unwrap().bytes, "abcdef");
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
        assert_eq!(limits.memory.used(), 0);
    }

    /// A body in pieces whose length is told.
    struct Announced {
        pieces: Vec<Bytes>,
        length: u64,
    }

    impl http_body::Body for Announced {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.pieces.pop().map(|piece| Ok(http_body::Frame::data(piece))))
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.length)
        }
    }

    #[tokio::test]
    async fn the_whole_capacity_of_a_body_counts_and_is_its_announced_length() {
        let (pieces, each) = (30, 10_000);
        let length = pieces * each;
        let limits = limits(length, 3 * length);
        let piece = Bytes::from(vec![b'x'; each]);
        let announced = Announced { pieces: vec![piece.clone(); pieces], length: length as u64 };
        let body = limits.read(announced).await.unwrap();
        let taken = || limits.memory.used();
        assert_eq!((body.bytes.len(), taken()), (length, length));
        drop(body);
        let unknown = stream::iter(vec![Ok::<_, Infallible>(piece); 20]);
        let body = limits.read(Body::from_stream(unknown)).await.unwrap();
        assert_eq!(body.bytes.len(), 20 * each);
        let capacity = Vec::from(body.bytes.clone()).capacity().max(body.bytes.len());
        assert!(taken() >= capacity, "{} counted, {capacity} held", taken());
        drop(body);
        assert_eq!(taken(), 0);
    }

    #[tokio::test]
    async fn an_announced_body_takes_a_quarter_more_than_its_length_at_most_while_it_comes() {
        for length in [100_000, 1 << 20, 5_000_000, 30 << 20] {
            let limits = limits(length, length + length / 4 + FIRST_BUFFER);
            let mut pieces = vec![Bytes::from(vec![b'x'; 10_000]); length / 10_000];
            pieces.push(Bytes::from(vec![b'x'; length % 10_000]));
            let announced = Announced { pieces, length: length as u64 };
            assert_eq!(limits.read(announced).await.unwrap().bytes.len(), length);
        }
    }

    #[test]
    fn a_body_takes_little_before_an_eighth_of_what_was_announced_has_come() {
        let memory = Memory::new(64 << 20);
        let mut buffer = Buffer::new(&memory);
        for _ in 0..30 {
            buffer.extend(&[b'x'; 64 << 10], Length::Announced(32 << 20)).unwrap();
            assert!(memory.used() <= 2 * buffer.len(), "{} for {}", memory.used(), buffer.len());
        }
    }

    #[tokio::test]
    async fn two_first_pieces_of_over_a_megabyte_are_a_body_like_any_other() {
        let piece = Bytes::from(vec![b'x'; 3 << 20]);
        let limits = limits(8 << 20, 64 << 20);
        for length in [6 << 20, 1 << 20] {
            let announced = Announced { pieces: vec![piece.clone(); 2], length };
            assert_eq!(limits.read(announced).await.unwrap().bytes.len(), 6 << 20);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_brings_less_than_a_kibibyte_a_second_is_given_up() {
        for (piece, pieces, is_read) in [(1, 20, false), (15 * 1024, 20, true), (1, 2, true)] {
            let pieces = stream::unfold(0, move |n| async move {
                if n == pieces {
                    return None;
                }
                tokio::time::sleep(Duration::from_secs(14)).await;
                Some((Ok::<_, Infallible>(Bytes::from(vec![b'x'; piece])), n + 1))
            });
            let limits = limits(1 << 20, 1 << 22);
            let read = limits.read(Body::from_stream(pieces)).await;
            assert_eq!(read.is_ok(), is_read, "{piece} bytes each 14 s");
            if let Err(error) = read {
                assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_arriving_is_given_up() {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from("a"))]);
        let body = Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()));
        let error = limits(6, 10).read(body).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
