//! What a connection waits for, and since when.
//!
//! Noted on the way of the bytes, read by a slow tick: so no request pays for a timer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::sleep;

use super::options::ServeOptions;

/// The deadlines of one connection.
pub(super) struct Clock {
    options: Arc<ServeOptions>,
    began: Instant,
    /// In milliseconds after `began`; `NEVER` when none runs.
    read_deadline: AtomicU64,
    write_deadline: AtomicU64,
    /// Whether the next byte begins a head. HTTP/1 only.
    idle: AtomicBool,
    /// How many streams are open; while one is, no read is waited for. HTTP/2 only.
    streams: AtomicUsize,
    /// How many streams have something that the client's window has no room for. HTTP/2 only.
    held: AtomicUsize,
    /// When such a stream must have moved. HTTP/2 only.
    held_deadline: AtomicU64,
    /// Whether the client may still send a part of a request that nobody reads. HTTP/1 only.
    unread: AtomicBool,
    /// Until when the rest of a request is read after its answer. HTTP/1 only.
    reads_on_until: AtomicU64,
    /// Whether an answer is under way whose end only the connection's end marks. HTTP/1.0 only.
    ends_an_answer: AtomicBool,
}

const NEVER: u64 = u64::MAX;

/// How long the rest of a request is read after its answer.
const READ_ON: Duration = Duration::from_secs(30);
/// How long the client may send none of that rest, unless a head may take less.
const READ_ON_STALL: Duration = Duration::from_secs(5);

impl Clock {
    pub(super) fn new(options: Arc<ServeOptions>) -> Self {
        let first = millis(options.header_timeout);
        Self {
            options,
            began: Instant::now(),
            read_deadline: AtomicU64::new(first),
            write_deadline: AtomicU64::new(NEVER),
            // The first head's time runs from the beginning.
            idle: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            held_deadline: AtomicU64::new(NEVER),
            unread: AtomicBool::new(false),
            reads_on_until: AtomicU64::new(NEVER),
            ends_an_answer: AtomicBool::new(false),
        }
    }

    fn after(&self, wait: Duration) -> u64 {
        millis(self.began.elapsed() + wait)
    }

    /// The connection speaks HTTP/1, and the first head comes.
    pub(super) fn head_comes(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// The head is complete.
    pub(super) fn answering(&self, has_body: bool) {
        self.idle.store(false, Ordering::Relaxed);
        self.unread.store(has_body, Ordering::Relaxed);
        self.read_deadline.store(NEVER, Ordering::Relaxed);
    }

    /// The answer is complete.
    pub(super) fn answered(&self) {
        self.wait_for_next();
        self.idle.store(true, Ordering::Relaxed);
    }

    /// The server drains. Before a connection becomes idle, hyper reads the last request to its end.
    pub(super) fn drains(&self) {
        if self.idle.load(Ordering::Relaxed) {
            self.unread.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the client may still send a part of a request that nobody reads.
    pub(super) fn may_have_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The rest of a request is read after its answer.
    pub(super) fn reads_on(&self) {
        self.reads_on_until.store(self.after(READ_ON), Ordering::Relaxed);
        self.read_more();
    }

    /// Some of that rest came.
    pub(super) fn read_more(&self) {
        let until = self.reads_on_until.load(Ordering::Relaxed);
        let stall = READ_ON_STALL.min(self.options.header_timeout);
        self.read_deadline.store(until.min(self.after(stall)), Ordering::Relaxed);
    }

    /// An answer begins whose end only the connection's end marks.
    pub(super) fn answer_ends_with_connection(&self) {
        self.ends_an_answer.store(true, Ordering::Relaxed);
    }

    /// Everything that was to be sent is sent.
    pub(super) fn answers_are_whole(&self) {
        self.ends_an_answer.store(false, Ordering::Relaxed);
    }

    /// Whether the connection's end would now mark the end of an answer that is not whole.
    pub(super) fn ends_an_answer(&self) -> bool {
        self.ends_an_answer.load(Ordering::Relaxed)
    }

    /// An HTTP/2 connection waits for its next stream.
    pub(super) fn wait_for_next(&self) {
        self.read_deadline.store(self.after(self.options.keep_alive_timeout), Ordering::Relaxed);
    }

    pub(super) fn stream_began(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_ended(&self) {
        // First the time, then the number: a tick in between sees an open stream.
        self.wait_for_next();
        self.streams.fetch_sub(1, Ordering::Release);
    }

    /// A stream has something for the client. It has moved when it is asked for more.
    pub(super) fn stream_holds(&self) {
        let deadline = self.after(self.options.write_stall_timeout);
        self.held_deadline.store(deadline, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::Release);
    }

    pub(super) fn stream_moved(&self) {
        let deadline = self.after(self.options.write_stall_timeout);
        self.held_deadline.store(deadline, Ordering::Relaxed);
        self.held.fetch_sub(1, Ordering::Release);
    }

    /// Bytes came in.
    fn read(&self) {
        if self.idle.load(Ordering::Relaxed) {
            self.idle.store(false, Ordering::Relaxed);
            self.unread.store(true, Ordering::Relaxed);
            self.read_deadline.store(self.after(self.options.header_timeout), Ordering::Relaxed);
        }
    }

    /// The client takes no more bytes, or it takes bytes again.
    fn stalls(&self, stalls: bool) {
        let deadline = if stalls { self.after(self.options.write_stall_timeout) } else { NEVER };
        self.write_deadline.store(deadline, Ordering::Relaxed);
    }

    /// Until something was waited for in vain, which is looked at so often.
    pub(super) async fn expires(&self, glance: Duration) {
        while !self.expired() {
            sleep(glance).await;
        }
    }

    /// Whether something was waited for in vain.
    fn expired(&self) -> bool {
        let unless = |count: &AtomicUsize, deadline: &AtomicU64, when: bool| {
            let waits = (count.load(Ordering::Acquire) > 0) == when;
            if waits { deadline.load(Ordering::Relaxed) } else { NEVER }
        };
        let read = unless(&self.streams, &self.read_deadline, false);
        let held = unless(&self.held, &self.held_deadline, true);
        let write = self.write_deadline.load(Ordering::Relaxed);
        millis(self.began.elapsed()) >= read.min(write).min(held)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// A connection's bytes, seen by its clock.
pub(super) struct Timed<IO> {
    io: IO,
    clock: Arc<Clock>,
    /// Whether the client takes no more bytes. The clock has the deadline of that; a write that goes as the
    /// one before leaves the clock alone, which would have to be fetched from memory.
    stalls: bool,
}

impl<IO> Timed<IO> {
    pub(super) fn new(io: IO, clock: Arc<Clock>) -> Self {
        Self { io, clock, stalls: false }
    }

    /// Bytes went out, or could not.
    fn wrote<T>(&mut self, result: &Poll<T>) {
        let stalls = result.is_pending();
        if std::mem::replace(&mut self.stalls, stalls) != stalls {
            self.clock.stalls(stalls);
        }
    }
}

impl<IO: Read + Unpin> Read for Timed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.clock.read();
        }
        read
    }
}

impl<IO: Write + Unpin> Write for Timed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
