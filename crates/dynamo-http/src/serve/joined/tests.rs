//! In how many pieces a message is written.

use std::task::Waker;

use super::*;

/// Takes 8 KiB at a time, and notes in how many pieces it came.
#[derive(Default)]
struct Sink {
    bytes: Vec<u8>,
    pieces: Vec<usize>,
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pieces.push(bufs.len());
        let all: Vec<u8> = bufs.iter().flat_map(|piece| piece.iter().copied()).collect();
        let taken = all.len().min(8192);
        self.bytes.extend_from_slice(&all[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn write(io: &mut Joined<Sink>, pieces: &[&[u8]]) -> Poll<io::Result<usize>> {
    let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(io).poll_write_vectored(&mut cx, &pieces)
}

#[test]
fn pieces_that_are_small_together_are_written_in_one() {
    let mut io = Joined::new(Sink::default());
    assert!(matches!(write(&mut io, &[b"head", b"", b"body"]), Poll::Ready(Ok(8))));
    let (half, rest) = ([b'a'; SMALL / 2], [b'b'; SMALL - SMALL / 2]);
    assert!(matches!(write(&mut io, &[&half, &rest]), Poll::Ready(Ok(SMALL))));
    assert_eq!(io.0.inner().pieces, [1, 1]);
    assert_eq!(io.0.inner().bytes, [b"headbody".as_slice(), &half, &rest].concat());
}

#[test]
fn larger_ones_are_not_copied() {
    let mut io = Joined::new(Sink::default());
    let body = [b'x'; 3 * SMALL];
    assert!(matches!(write(&mut io, &[b"head", &body]), Poll::Ready(Ok(8192))));
    assert!(matches!(write(&mut io, &[b"h", &body[..SMALL]]), Poll::Ready(Ok(_))));
    assert_eq!(io.0.inner().pieces, [2, 2]);
}
