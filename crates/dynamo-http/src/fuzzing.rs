//! Private parts that a fuzzer must reach.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::exchange::{Connection, Request};
use crate::proxy::{PlainRename, peek, renamed};

/// What the proxy reads of a request's body.
#[derive(Debug)]
pub struct Peeked {
    /// The model.
    pub model: String,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// What names the session, as raw JSON.
    pub session: Option<String>,
    /// What the model is to work on, as raw JSON.
    pub prompt: Option<String>,
    /// The place of the model's name in the body.
    pub place: Range<usize>,
    /// The body with this in place of the name.
    pub renamed: Vec<u8>,
}

/// What the bodies get in place of the model's name, as JSON.
pub const NAME: &str = r#""a\"é""#;

/// Reads a body, or says what the client is told.
///
/// # Errors
///
/// The message of the answer.
pub fn peek(body: &[u8]) -> Result<Peeked, String> {
    let peeked = peek::peek(body).map_err(|error| error.message().to_owned())?;
    let place = peeked.places.model.clone();
    Ok(Peeked {
        renamed: renamed(body, place.clone(), Bytes::from_static(NAME.as_bytes())),
        place,
        model: peeked.model.into_owned(),
        stream: peeked.stream,
        session: peeked.session.map(Into::into),
        prompt: Some(peeked.prompt.input).filter(|input| !input.is_empty()).map(Into::into),
    })
}

/// A plain answer, in pieces of this length, with [`NAME`] in place of its model's name.
pub fn rename(answer: &[u8], piece: usize) -> Vec<u8> {
    let mut rename = PlainRename::new(Bytes::from_static(NAME.as_bytes()));
    answer.chunks(piece.max(1)).flat_map(|data| rename.pass(Bytes::copy_from_slice(data))).collect()
}

/// What a worker sends after a request, in pieces of one length. It is closed behind that.
struct Sent<'a> {
    rest: &'a [u8],
    piece: usize,
    is_asked: bool,
}

impl AsyncRead for Sent<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked {
            return Poll::Pending;
        }
        let length = self.piece.min(self.rest.len()).min(buf.remaining());
        let (piece, rest) = self.rest.split_at(length);
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sent<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An answer of a worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// What came of the body.
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub is_whole: bool,
}

/// The answer in what a worker sends, which comes in pieces of this length; none if it is none.
pub fn exchange(sent: &[u8], piece: usize) -> Option<Exchanged> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut connection = Connection::new(Sent { rest: sent, piece: piece.max(1), is_asked: false });
    let headers = HeaderMap::new();
    let request =
        Request { method: Method::GET, target: "/", headers: &headers, own: &[], body: None };
    connection.send(&mut cx, &request).ok()?;
    let Poll::Ready(Ok(head)) = connection.poll_head(&mut cx) else { return None };
    let (status, headers) = (head.status().as_u16(), head.headers().clone());
    let mut body = Vec::new();
    while let Poll::Ready(Some(Ok(data))) = connection.poll_data(&mut cx) {
        body.extend_from_slice(&data);
    }
    let is_whole = connection.is_ended();
    Some(Exchanged { status, headers, body, is_whole })
}
