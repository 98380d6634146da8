//! Threads that serve connections, each those that it was given.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the core that runs the caller, from 1 on; 0 outside of cores.
pub(crate) fn here() -> usize {
    HERE.get()
}

/// Threads with a runtime each, for [`ServeOptions::cores`](super::ServeOptions::cores).
///
/// A connection stays on the thread that it was given to, the one with the fewest, and so do the
/// connections to workers that its requests use: no other thread touches them. That costs less than
/// work that may move, and is how nginx, haproxy and Envoy do it. In return, a busy connection cannot
/// move to an idle thread.
///
/// The threads end when the last clone is dropped, and with them what they serve.
#[derive(Clone)]
pub struct Cores {
    cores: Arc<[Core]>,
}

struct Core {
    runtime: Handle,
    /// How many connections it has.
    connections: Arc<AtomicUsize>,
    /// Dropped, it ends the thread.
    _alive: oneshot::Sender<()>,
}

impl Cores {
    /// Starts so many threads.
    ///
    /// # Errors
    ///
    /// When there cannot be another thread or runtime.
    pub fn start(threads: NonZeroUsize) -> io::Result<Self> {
        (1..=threads.get()).map(Core::start).collect::<io::Result<_>>().map(|cores| Self { cores })
    }

    /// Has a connection served by the core that has the fewest.
    pub(super) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let count = |core: &&Core| core.connections.load(Ordering::Relaxed);
        let Some(core) = self.cores.iter().min_by_key(count) else { return };
        core.connections.fetch_add(1, Ordering::Relaxed);
        let ends = Ends(core.connections.clone());
        core.runtime.spawn(async move {
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

impl Core {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (alive, ended) = oneshot::channel();
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("core-{number}")).spawn(move || {
            HERE.set(number);
            let _ended = runtime.block_on(ended);
        })?;
        Ok(Self { runtime: handle, connections: Arc::default(), _alive: alive })
    }
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cores").field("threads", &self.cores.len()).finish()
    }
}
