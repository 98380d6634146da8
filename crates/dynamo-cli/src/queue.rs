//! A bounded queue with a thread behind it, for outputs that may be slow, full or closed.
//!
//! A thread that serves requests only puts an item into the queue; the queue's thread writes it. An
//! item that finds the queue full is dropped and counted.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How many items may wait.
pub(crate) const CAPACITY: usize = 8192;
/// How often it is told what was dropped.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the end of a program waits for the output to take what is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the queue's thread does with items.
pub(crate) trait Sink<T>: Send + 'static {
    /// Takes an item.
    fn take(&mut self, item: T);

    /// Writes what was taken, since nothing waits at the moment.
    fn rest(&mut self) {}

    /// Logs what is to be told, now and then. `dropped` are the items that found the queue full since
    /// the last call.
    fn report(&mut self, dropped: u64);
}

/// The queue's entrance. A clone is the same entrance.
pub(crate) struct Queue<T> {
    sender: SyncSender<Message<T>>,
    counts: Arc<Counts>,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), counts: self.counts.clone() }
    }
}

/// What the queue counts.
#[derive(Debug, Default)]
struct Counts {
    /// Items that wait.
    waiting: AtomicUsize,
    /// Items that were dropped since the last report.
    untold: AtomicU64,
    /// All items that were dropped.
    dropped: AtomicU64,
}

enum Message<T> {
    Item(T),
    /// Everything before it is to be written, and then this to be told.
    Flush(SyncSender<()>),
}

impl<T: Send + 'static> Queue<T> {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(crate) fn start(thread: &str, sink: impl Sink<T>) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(CAPACITY);
        let counts = Arc::<Counts>::default();
        let queue = Self { sender, counts: Arc::clone(&counts) };
        thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || write(&receiver, sink, &counts))
            .map(|_| queue)
    }

    /// Puts an item into the queue; a full queue drops it.
    pub(crate) fn put(&self, item: T) {
        // Before it is there: the thread may take it at once.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(Message::Item(item)).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.untold.fetch_add(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes the thread, which writes what it has. A full queue needs none: its thread is awake.
    pub(crate) fn wake(&self) {
        let _ = self.sender.try_send(Message::Flush(sync_channel(1).0));
    }

    /// How many items were dropped since the last report; from now on they count as told.
    pub(crate) fn take_untold(&self) -> u64 {
        self.counts.untold.swap(0, Ordering::Relaxed)
    }

    /// How many items wait, how many may, and how many found no room so far.
    pub(crate) fn counts(&self) -> (usize, usize, u64) {
        let Counts { waiting, dropped, .. } = &*self.counts;
        (waiting.load(Ordering::Relaxed), CAPACITY, dropped.load(Ordering::Relaxed))
    }

    /// Waits until all items are written, but not for long.
    pub(crate) fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        let (done, flushed) = sync_channel(1);
        let mut message = Message::Flush(done);
        // A full queue gets room when the output takes an item.
        while let Err(TrySendError::Full(same)) = self.sender.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = same;
            thread::sleep(Duration::from_millis(5));
        }
        let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write<T>(receiver: &Receiver<Message<T>>, mut sink: impl Sink<T>, counts: &Counts) {
    let mut reported = Instant::now();
    loop {
        let message = receiver.try_recv().or_else(|_| {
            sink.rest();
            receiver.recv_timeout(REPORT_INTERVAL)
        });
        match message {
            Ok(Message::Item(item)) => {
                sink.take(item);
                counts.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(Message::Flush(done)) => {
                sink.rest();
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            sink.report(counts.untold.swap(0, Ordering::Relaxed));
            reported = Instant::now();
        }
    }
}
