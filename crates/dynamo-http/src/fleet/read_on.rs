//! A socket to a worker whose answer counts also where our writes fail.
//!
//! An engine may answer before it has read the request, and close: a body that is too large gets 413.
//! Our write then fails, and the answer waits in the socket. hyper gives up at the first failed write.
//! So a failed write is kept here and reported as written, and the end of the answer reports it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether all bytes so far were written to a socket. A clone tells of the same socket.
///
/// A connection whose last request was not written as a whole cannot carry another one.
#[derive(Clone, Debug)]
pub(super) struct Written(Arc<AtomicBool>);

impl Written {
    pub(super) fn is_all(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A socket that is read on after a write has failed.
pub(crate) struct ReadOn<IO> {
    io: IO,
    written: Written,
    /// Why writing failed. Nothing is written any more then.
    failed: Option<io::ErrorKind>,
}

impl<IO> ReadOn<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, written: Written(Arc::new(AtomicBool::new(true))), failed: None }
    }

    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    #[cfg(test)]
    pub(super) fn inner(&self) -> &IO {
        &self.io
    }

    /// Keeps a failure, and says that `length` bytes were written.
    fn took(&mut self, written: io::Result<usize>, length: usize) -> usize {
        written.unwrap_or_else(|error| {
            self.failed = Some(error.kind());
            length
        })
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadOn<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        match self.failed {
            // Else an answer that only the end of its connection ends would look whole.
            Some(kind) if buf.filled().len() == before => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadOn<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        self.written.0.store(false, Relaxed);
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        Poll::Ready(Ok(self.took(written, buf.len())))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|piece| piece.len()).sum();
        if self.failed.is_some() {
            return Poll::Ready(Ok(length));
        }
        self.written.0.store(false, Relaxed);
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        Poll::Ready(Ok(self.took(written, length)))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_none() {
            match ready!(Pin::new(&mut self.io).poll_flush(cx)) {
                // hyper flushes the socket when its own buffer is empty.
                Ok(()) => self.written.0.store(true, Relaxed),
                Err(error) => self.failed = Some(error.kind()),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The peer has sent `answer` and is gone: every write fails.
    struct Gone {
        answer: &'static [u8],
    }

    impl AsyncRead for Gone {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.answer));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_the_peer_has_sent_is_read_after_a_failed_write_and_its_end_is_an_error() {
        let mut io = ReadOn::new(Gone { answer: b"413" });
        let written = io.written().clone();
        io.write_all(b"request").await.unwrap();
        io.write_all(b"more").await.unwrap();
        io.flush().await.unwrap();
        assert!(!written.is_all());
        let mut answer = [0; 3];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"413");
        let end = io.read(&mut answer).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn bytes_count_as_written_when_they_are_flushed() {
        let (io, mut peer) = tokio::io::duplex(4);
        let mut io = ReadOn::new(io);
        let written = io.written().clone();
        assert!(written.is_all());
        io.write_all(b"head").await.unwrap();
        assert!(!written.is_all());
        io.flush().await.unwrap();
        assert!(written.is_all());
        let mut read = [0; 4];
        peer.read_exact(&mut read).await.unwrap();
        drop(peer);
        assert_eq!(io.read(&mut read).await.unwrap(), 0, "a clean end where no write failed");
    }
}
