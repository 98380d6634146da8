//! Serving a router with deadlines, limits and a drain.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep, timeout};
use tower_service::Service as _;
use tracing::{debug, info, warn};

/// Deadlines and limits of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// How long the head of a request may take, from its first byte, or from the connection's
    /// beginning for the first one. Default 10 s.
    pub header_timeout: Duration,
    /// The largest head of a request, in bytes; above, 431. Default 64 KiB, at least 8 KiB.
    pub max_header_bytes: usize,
    /// How many header fields a request may have; above, 431. Default 100.
    pub max_headers: usize,
    /// How long a connection may be idle between two requests. Default 75 s.
    pub keep_alive_timeout: Duration,
    /// How long a client may take nothing of its answer. Default 300 s.
    pub write_stall_timeout: Duration,
    /// How long requests may go on after the shutdown. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            keep_alive_timeout: Duration::from_secs(75),
            write_stall_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves a router over HTTP/1.1 until `shutdown`, then drains.
///
/// Draining: no connection is accepted, idle ones are closed, requests in flight go on for as long
/// as [`ServeOptions::drain_timeout`] allows, and what is left then is cut. Returns whether
/// everything ended in time.
///
/// `axum::serve` has no deadline for heads and no limits, hence this.
///
/// ```
/// use axum::{Router, routing::get};
/// use dynamo_http::{ServeOptions, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let router = Router::new().route("/", get(|| async { "hello" }));
/// let shutdown = async {}; // At once, here.
/// assert!(serve(listener, router, ServeOptions::default(), shutdown).await);
/// # Ok(())
/// # }
/// ```
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let mut shutdown = pin!(shutdown);
    let graceful = GracefulShutdown::new();
    let options = Arc::new(options);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection ended before it began");
            continue;
        }
        serve_connection(stream, router.clone(), &options, &graceful);
    }
    drop(listener);
    info!(connections = graceful.count(), "draining");
    timeout(options.drain_timeout, graceful.shutdown()).await.is_ok()
}

/// An error of one connection does not matter; one of our own, such as too many open files, would
/// come again at once.
async fn pause_after(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !of_one_connection {
        warn!(%error, "cannot accept connections");
        sleep(Duration::from_millis(100)).await;
    }
}

fn serve_connection(
    stream: TcpStream,
    router: Router,
    options: &Arc<ServeOptions>,
    graceful: &GracefulShutdown,
) {
    let clock = Arc::new(Clock::new(options.clone()));
    let io = Timed { io: TokioIo::new(stream), clock: clock.clone() };
    let service = {
        let clock = clock.clone();
        service_fn(move |request: http::Request<Incoming>| {
            clock.answering();
            let clock = clock.clone();
            let answer = router.clone().call(request);
            async move { answer.await.map(|response| response.map(|body| Answering { body, clock })) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Ours, since hyper's would also run while a kept-alive connection is idle.
        .header_read_timeout(None)
        .max_buf_size(options.max_header_bytes.max(8192))
        .max_headers(options.max_headers)
        .serve_connection(io, service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        let mut tick = interval(clock.options.header_timeout.max(Duration::from_millis(40)) / 4);
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        debug!(%error, "connection ended");
                    }
                    return;
                }
                _ = tick.tick() => {
                    if clock.expired() {
                        debug!("connection timed out");
                        return;
                    }
                }
            }
        }
    });
}

/// What a connection is waiting for, and since when.
///
/// Written on the way of the bytes, read by a slow tick: so no request pays for a timer.
struct Clock {
    options: Arc<ServeOptions>,
    began: Instant,
    /// In milliseconds after `began`; `NEVER` when none runs.
    read_deadline: AtomicU64,
    write_deadline: AtomicU64,
    /// Whether the next byte begins a head.
    idle: std::sync::atomic::AtomicBool,
}

const NEVER: u64 = u64::MAX;

impl Clock {
    fn new(options: Arc<ServeOptions>) -> Self {
        let first = millis(options.header_timeout);
        Self {
            options,
            began: Instant::now(),
            read_deadline: AtomicU64::new(first),
            write_deadline: AtomicU64::new(NEVER),
            // The first head's time runs from the beginning.
            idle: std::sync::atomic::AtomicBool::new(false),
        }
    }

    fn after(&self, wait: Duration) -> u64 {
        millis(self.began.elapsed() + wait)
    }

    /// The head is complete.
    fn answering(&self) {
        self.idle.store(false, Ordering::Relaxed);
        self.read_deadline.store(NEVER, Ordering::Relaxed);
    }

    /// The answer is complete.
    fn answered(&self) {
        self.read_deadline.store(self.after(self.options.keep_alive_timeout), Ordering::Relaxed);
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Bytes came in.
    fn read(&self) {
        if self.idle.load(Ordering::Relaxed) {
            self.idle.store(false, Ordering::Relaxed);
            self.read_deadline.store(self.after(self.options.header_timeout), Ordering::Relaxed);
        }
    }

    /// Bytes went out, or could not.
    fn wrote<T>(&self, result: &Poll<T>) {
        let stalled = self.write_deadline.load(Ordering::Relaxed) != NEVER;
        match result {
            Poll::Pending if !stalled => {
                let deadline = self.after(self.options.write_stall_timeout);
                self.write_deadline.store(deadline, Ordering::Relaxed);
            }
            Poll::Ready(_) if stalled => self.write_deadline.store(NEVER, Ordering::Relaxed),
            _ => {}
        }
    }

    fn expired(&self) -> bool {
        let read = self.read_deadline.load(Ordering::Relaxed);
        let write = self.write_deadline.load(Ordering::Relaxed);
        millis(self.began.elapsed()) >= read.min(write)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// A connection's bytes, seen by its clock.
struct Timed {
    io: TokioIo<TcpStream>,
    clock: Arc<Clock>,
}

impl Read for Timed {
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

impl Write for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.clock.wrote(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.clock.wrote(&wrote);
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

/// An answer's body; when it is dropped, the connection is idle.
struct Answering {
    body: Body,
    clock: Arc<Clock>,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.clock.answered();
    }
}
