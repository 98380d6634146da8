//! The body of a worker's answer, read in the task of whoever wants it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::fleet::{Connection, Place};

/// How much is joined into one frame at most.
const JOINED: usize = 64 * 1024;

/// The head of an answer, where it comes from, the connection that it came over, and the place that
/// it takes.
pub(crate) struct Head {
    pub(crate) response: http::Response<Incoming>,
    pub(crate) model: Arc<str>,
    pub(crate) connection: Box<Connection>,
    pub(crate) place: Place,
}

/// A worker's answer as it arrives.
///
/// Frames that are readable now leave as one; none ever waits for another. After the last one the
/// connection goes back to its pool. Dropped before that, it is closed, which cancels the request
/// at the worker.
pub(crate) struct Answer {
    incoming: Incoming,
    connection: Option<Box<Connection>>,
    place: Place,
    /// A frame that was read but could not be joined: trailers, an error, or the end.
    unread: Option<Option<Result<Frame<Bytes>, hyper::Error>>>,
}

impl Answer {
    pub(crate) fn new(incoming: Incoming, connection: Box<Connection>, place: Place) -> Self {
        Self { incoming, connection: Some(connection), place, unread: None }
    }

    /// Bytes came from the server.
    pub(crate) fn heard(&self, at: Instant) {
        self.place.upstream().rotation.heard(at);
    }

    /// The next frame: one that was read already, else what can be read now.
    fn poll_once(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.connection {
            Some(connection) => connection.poll_frame(cx, &mut self.incoming),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn recycle(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection.take() {
            connection.recycle(cx, self.place.upstream().pool());
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let first = match this.unread.take() {
            Some(unread) => unread,
            None => std::task::ready!(this.poll_once(cx)),
        };
        let first = match first.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => data,
            Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
            Some(Err(error)) => {
                this.connection = None;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                this.recycle(cx);
                return Poll::Ready(None);
            }
        };
        let mut joined: Option<BytesMut> = None;
        let so_far = |joined: &Option<BytesMut>| joined.as_ref().map_or(first.len(), BytesMut::len);
        // A server stops polling when the length is reached, so the end is looked for here as well.
        while !this.incoming.is_end_stream() && so_far(&joined) < JOINED {
            // As a rule there is none, and the task is to be woken. In a burst there is a row of them.
            let next = match &mut this.connection {
                Some(connection) if joined.is_some() => connection.next_now(&mut this.incoming),
                _ => this.poll_once(cx),
            };
            match next {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    let more = frame.into_data().unwrap_or_default();
                    joined
                        .get_or_insert_with(|| {
                            let mut joined =
                                BytesMut::with_capacity((first.len() + more.len()) * 4);
                            joined.extend_from_slice(&first);
                            joined
                        })
                        .extend_from_slice(&more);
                }
                Poll::Ready(other) => {
                    this.unread = Some(other);
                    break;
                }
            }
        }
        if this.incoming.is_end_stream() && this.unread.is_none() {
            this.recycle(cx);
        }
        let data = joined.map_or(first, BytesMut::freeze);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
