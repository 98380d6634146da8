//! The socket of one connection: its first bytes, and how it ends.
//!
//! hyper ends a connection in one of two ways. After the last answer is written it shuts the socket
//! down; after a failure it drops the socket. Both ways need more than the kernel does by itself.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::clock::Clock;
use super::http2::PREFACE;

/// How many bytes of a refused request are read after its answer. A client such as Python's
/// `http.client` reads no answer before it has sent the whole body.
const MOST_READ_ON: usize = 1 << 30;
/// How many of them are read at one time.
const PIECE: usize = 16 << 10;

/// The socket of one connection.
pub(super) struct Socket {
    stream: TcpStream,
    clock: Arc<Clock>,
    /// The first bytes, which were read to tell the protocol.
    first: [u8; PREFACE.len()],
    /// How many of them were read, and how many of those were passed on.
    first_read: usize,
    first_passed: usize,
    /// How many more bytes are read of a request that was answered before all of it was read. There
    /// once the socket was shut down while the client may still send.
    ///
    /// A socket that is closed while bytes come in resets the connection, and a reset takes the answer
    /// away from a client that has not read it yet (RFC 9112, section 9.6).
    reading_on: Option<usize>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, clock: Arc<Clock>) -> Self {
        let first = [0; PREFACE.len()];
        Self { stream, clock, first, first_read: 0, first_passed: 0, reading_on: None }
    }

    /// Whether the client begins with the preface of HTTP/2. The bytes can be read again.
    pub(super) async fn begins_http2(&mut self) -> io::Result<bool> {
        while self.first_read < PREFACE.len() && PREFACE.starts_with(&self.first[..self.first_read])
        {
            match self.stream.read(&mut self.first[self.first_read..]).await? {
                0 => break,
                length => self.first_read += length,
            }
        }
        Ok(self.first[..self.first_read] == PREFACE)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first_passed < self.first_read {
            let first = &self.first[self.first_passed..self.first_read];
            let passed = first.len().min(buf.remaining());
            buf.put_slice(&first[..passed]);
            self.first_passed += passed;
            // The rest of the head mostly waits in the socket. Without it hyper would make room for a
            // second read, and keep that room for as long as the connection is open.
            if buf.remaining() > 0 {
                // The end, or an error, shows again at the next read.
                let _more = Pin::new(&mut self.stream).poll_read(cx, buf);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes the side that writes, and then reads on while the client may still send.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, clock, reading_on, .. } = self.get_mut();
        let left = match reading_on {
            Some(left) => left,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                clock.answers_are_whole();
                if !clock.may_have_unread() {
                    return Poll::Ready(Ok(()));
                }
                clock.reads_on();
                reading_on.insert(MOST_READ_ON)
            }
        };
        let mut piece = [MaybeUninit::uninit(); PIECE];
        loop {
            let mut buf = ReadBuf::uninit(&mut piece);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            let length = buf.filled().len();
            *left = left.saturating_sub(length);
            if read.is_err() || length == 0 || *left == 0 {
                return Poll::Ready(Ok(()));
            }
            clock.read_more();
        }
    }
}

impl Drop for Socket {
    /// Resets the connection if only its end would mark the end of an answer that is not whole. A
    /// client, or a proxy that stores answers, would take a clean end for a whole answer.
    fn drop(&mut self) {
        if self.clock.ends_an_answer() {
            // It fails where the client is gone, which needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::serve::options::ServeOptions;

    /// A client, and the server's side of its connection.
    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let clock = Arc::new(Clock::new(Arc::new(ServeOptions::default())));
        (client, Socket::new(stream, clock))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_the_first_byte_of_the_preface_and_no_more_is_not_polled() {
        let (mut client, mut socket) = pair().await;
        client.write_all(b"P").await.unwrap();
        let mut polls = 0;
        let mut opening = pin!(socket.begins_http2());
        let counted = poll_fn(|cx| {
            polls += 1;
            opening.as_mut().poll(cx)
        });
        // The clock is paused, so an hour passes as soon as nothing else happens.
        assert!(timeout(Duration::from_secs(3600), counted).await.is_err());
        assert!(polls <= 4, "{polls} polls");
    }

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol_and_are_read_again_as_they_came() {
        for (sent, http2) in [
            (&b"PRI * HTTP/2.0\r\n"[..], true),
            (b"PRI", true),
            (b"POST / HTTP/1.1\r\n", false),
            (b"P", false),
            (b"", false),
        ] {
            for piece in [1, 2, sent.len().max(1)] {
                let (mut client, mut socket) = pair().await;
                let send = async {
                    for piece in sent.chunks(piece) {
                        client.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    client.shutdown().await.unwrap();
                };
                let read = async {
                    assert_eq!(socket.begins_http2().await.unwrap(), http2, "{sent:?}");
                    let mut all = Vec::new();
                    socket.read_to_end(&mut all).await.unwrap();
                    assert_eq!(all, sent);
                };
                tokio::join!(send, read);
            }
        }
    }
}
