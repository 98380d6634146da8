//! Small pieces are written in one.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// What is copied rather than handed to the kernel in pieces: for a head and a short body, `send`
/// costs 0.3 to 0.5 µs less than `writev`, and a request makes two of them.
const SMALL: usize = 4096;

/// A socket for hyper, which writes a message as a head, a body, and what frames it.
pub(crate) struct Joined<IO>(TokioIo<IO>);

impl<IO> Joined<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self(TokioIo::new(io))
    }
}

impl<IO: AsyncRead + Unpin> Read for Joined<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> Write for Joined<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
            return Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        }
        let mut space = [MaybeUninit::uninit(); SMALL];
        let mut joined = ReadBuf::uninit(&mut space);
        bufs.iter().for_each(|piece| joined.put_slice(piece));
        Pin::new(&mut self.0).poll_write(cx, joined.filled())
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
