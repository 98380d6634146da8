//! The body of a worker's answer, read in the task of the client's connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::naming::Naming;
use crate::fleet::{Connection, Origin, Place};

/// The largest frame into which smaller frames are joined, in bytes.
const JOINED: usize = 64 * 1024;
/// The room for frames that are joined, in bytes, before there are more: as much as a burst mostly has,
/// since a buffer that grows is copied.
const ROOM: usize = 16 * 1024;

/// The largest frame that is copied out of the connection's buffer, in bytes.
const COPIED: usize = 1024;

/// A frame in memory of its own, where it is small. It would else keep the buffer that the connection
/// has read it into, and the connection would make a new one of 8 KiB for each token.
fn apart(frame: Bytes) -> Bytes {
    if frame.len() <= COPIED { Bytes::copy_from_slice(&frame) } else { frame }
}

/// The head of an answer, with the model, the connection and the place of its request. The body is
/// still to be read from the connection.
pub(crate) struct Head {
    pub(crate) response: http::Response<Incoming>,
    pub(crate) model: Arc<str>,
    pub(crate) connection: Box<Connection>,
    pub(crate) place: Place,
    /// What the server's entry says. None if the entry has just gone.
    pub(crate) origin: Option<Origin>,
    /// Whether the proxy has asked for the usage, and the client has not.
    pub(crate) asked: bool,
    /// How the answer names the model, if the request asked for an alias.
    pub(crate) naming: Option<Box<Naming>>,
}

/// A worker's answer as it arrives.
///
/// Frames that are readable at the same time are joined. A frame never waits for a later one. After
/// the last frame the connection goes back to its pool. Dropping an unfinished answer closes the
/// connection, which cancels the request at the worker.
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

    /// Notes for the server's rotation that bytes came.
    pub(crate) fn heard(&self, at: Instant) {
        self.place.upstream().rotation.heard(at);
    }

    /// Notes for placement that the answer has content; calls after the first one change nothing.
    pub(crate) fn content_came(&mut self, at: Instant) {
        self.place.content_came(at.into_std());
    }

    /// Notes for placement how many tokens the engine counted in the prompt, and how many of these were
    /// cached.
    pub(crate) fn usage(&self, prompt_tokens: u64, cached_tokens: Option<u64>) {
        self.place.usage(prompt_tokens, cached_tokens);
    }

    /// The next frame of the body.
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
        let first = if this.incoming.is_end_stream() { first } else { apart(first) };
        let mut joined: Option<BytesMut> = None;
        let so_far = |joined: &Option<BytesMut>| joined.as_ref().map_or(first.len(), BytesMut::len);
        // hyper's server stops polling when the announced length is reached. So the loop checks for
        // the end by itself.
        while !this.incoming.is_end_stream() && so_far(&joined) < JOINED {
            // Mostly there is no second frame, and this poll registers the task to be woken. In a
            // burst there are many, and the polls after the first one register nothing.
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
                            let both = first.len() + more.len();
                            let mut joined = BytesMut::with_capacity(ROOM.max(both * 2));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_frame_leaves_the_buffer_of_its_connection_and_a_large_one_is_not_copied() {
        for (length, copied) in [(1, true), (COPIED, true), (COPIED + 1, false)] {
            let buffer = Bytes::from(vec![7; 8192]);
            let frame = apart(buffer.slice(..length));
            assert_eq!(frame, vec![7; length]);
            assert_eq!(buffer.is_unique(), copied, "{length} bytes");
        }
    }
}
