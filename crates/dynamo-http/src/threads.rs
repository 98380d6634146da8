//! Threads that serve connections, each those that it was given.

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::Builder as ThreadBuilder;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How many serving threads this process has started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the serving thread that runs the caller, from 1 on; 0 on any other thread.
pub(crate) fn here() -> usize {
    HERE.get()
}

/// The highest number of a serving thread so far.
pub(crate) fn started() -> usize {
    STARTED.load(Ordering::Relaxed)
}

/// Threads with a runtime each, for [`ServeOptions::with_threads`](crate::ServeOptions::with_threads).
///
/// A connection stays on the thread that it was given to, the one with the fewest, and so do the
/// connections to workers that its requests use: no other thread touches them. That costs less than
/// work that may move, and is how nginx, haproxy and Envoy do it. In return, a busy connection cannot
/// move to an idle thread.
///
/// The threads end when the last clone is dropped, and with them what they serve.
#[derive(Clone, derive_more::Debug)]
#[debug("Threads({})", threads.len())]
pub struct Threads {
    threads: Arc<[Thread]>,
}

struct Thread {
    runtime: Handle,
    /// How many connections it has.
    connections: Arc<AtomicUsize>,
    /// Dropped, it ends the thread.
    _alive: oneshot::Sender<()>,
}

impl Threads {
    /// Starts so many threads.
    ///
    /// # Errors
    ///
    /// When there cannot be another thread or runtime.
    pub fn start(threads: NonZeroUsize) -> io::Result<Self> {
        (1..=threads.get())
            .map(Thread::start)
            .collect::<io::Result<_>>()
            .map(|threads| Self { threads })
    }

    /// Has a connection served by the thread that has the fewest.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let count = |thread: &&Thread| thread.connections.load(Ordering::Relaxed);
        let Some(thread) = self.threads.iter().min_by_key(count) else { return };
        thread.connections.fetch_add(1, Ordering::Relaxed);
        let ends = Ends(thread.connections.clone());
        thread.runtime.spawn(async move {
            let _ends = ends;
            connection.await;
        });
    }
}

/// Counts a connection off.
struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Thread {
    fn start(name: usize) -> io::Result<Self> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed) + 1;
        let (alive, ended) = oneshot::channel::<()>();
        let (tell, told) = mpsc::sync_channel(1);
        ThreadBuilder::new().name(format!("serve-{name}")).spawn(move || {
            HERE.set(number);
            // Made here, since it cannot be dropped where another one runs.
            let runtime = Builder::new_current_thread().enable_all().build();
            let handle = runtime.as_ref().map(|runtime| runtime.handle().clone());
            // Whoever starts it waits for this.
            let _ = tell.send(handle.map_err(|error| io::Error::from(error.kind())));
            if let Ok(runtime) = runtime {
                let _ended = runtime.block_on(ended);
            }
        })?;
        let runtime = told.recv().map_err(io::Error::other)??;
        Ok(Self { runtime, connections: Arc::default(), _alive: alive })
    }
}
