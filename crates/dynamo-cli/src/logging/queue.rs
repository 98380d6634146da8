//! Log lines on their way to stderr, which may be slow, full or closed.
//!
//! A thread that serves requests only puts a line into a bounded queue; a thread of the queue writes
//! it. A line that finds the queue full is dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// How many lines may wait. A line has some 200 bytes.
const CAPACITY: usize = 8192;
/// How often it is told what was dropped.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the end of a program waits for stderr to take what is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// The queue's entrance. A clone is the same entrance.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: SyncSender<Message>,
    counts: Arc<Counts>,
}

/// What the queue counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Lines that wait.
    waiting: AtomicUsize,
    /// Lines that were dropped since the last report.
    untold: AtomicU64,
    /// All lines that were dropped.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Everything before it is to be written, and then this to be told.
    Flush(SyncSender<()>),
}

impl Queue {
    /// Starts the thread. `report` is called in it, now and then, to log what is to be told.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        report: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(CAPACITY);
        let counts = Arc::<Counts>::default();
        let queue = Self { sender, counts: Arc::clone(&counts) };
        let told = Arc::clone(&counts);
        let report = move || {
            tell(&told.untold);
            report();
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(&receiver, out, &counts.waiting, &report))
            .map(|_| queue)
    }

    /// Logs how many lines were dropped since the last report.
    pub(super) fn report(&self) {
        tell(&self.counts.untold);
    }

    /// How many lines wait, how many may, and how many found no room so far.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        let Counts { waiting, dropped, .. } = &*self.counts;
        (waiting.load(Ordering::Relaxed), CAPACITY, dropped.load(Ordering::Relaxed))
    }

    /// Waits until all lines are written, but not for long.
    pub(super) fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        let (done, flushed) = sync_channel(1);
        let mut message = Message::Flush(done);
        // A full queue gets room when stderr takes a line.
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

fn tell(dropped: &AtomicU64) {
    let lines = dropped.swap(0, Ordering::Relaxed);
    if lines > 0 {
        warn!(lines, "log lines were dropped: stderr takes them too slowly");
    }
}

fn write(
    receiver: &Receiver<Message>,
    mut out: impl Write,
    waiting: &AtomicUsize,
    report: &impl Fn(),
) {
    let mut reported = Instant::now();
    loop {
        // A line that cannot be written is lost: there is no one to tell.
        match receiver.recv_timeout(REPORT_INTERVAL) {
            Ok(Message::Line(line)) => {
                drop(out.write_all(&line));
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(Message::Flush(done)) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            report();
            reported = Instant::now();
        }
    }
}

/// One line is written at once.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Before it is there: the thread may take it at once.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(Message::Line(line.to_vec())).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.untold.fetch_add(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    /// Takes nothing before it is told to, and keeps what it has taken.
    struct Slow {
        open: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.open.recv();
            self.taken.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_finds_the_queue_full_is_dropped_and_counted_and_the_others_are_written() {
        let (opener, open) = mpsc::channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let mut queue = Queue::start(Slow { open, taken: Arc::clone(&taken) }, || {}).unwrap();
        // One may be in the hands of the thread already.
        for _ in 0..CAPACITY + 10 {
            queue.write_all(b".").unwrap();
        }
        let (waiting, most, dropped) = queue.counts();
        assert!((most..=most + 1).contains(&waiting), "{waiting}");
        assert!((9..=10).contains(&dropped), "{dropped}");
        drop(opener);
        queue.wait();
        let written = taken.lock().unwrap().len();
        assert_eq!(written as u64, CAPACITY as u64 + 10 - dropped);
        assert_eq!(queue.counts(), (0, CAPACITY, dropped));
    }

    #[test]
    fn the_end_does_not_wait_for_an_output_that_takes_nothing() {
        let (_opener, open) = mpsc::channel();
        let mut queue = Queue::start(Slow { open, taken: Arc::default() }, || {}).unwrap();
        for _ in 0..CAPACITY + 10 {
            queue.write_all(b".").unwrap();
        }
        queue.wait();
    }

    #[test]
    fn an_output_that_fails_is_written_to_again() {
        struct Failing(mpsc::Sender<usize>);

        impl Write for Failing {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                let _ = self.0.send(line.len());
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }

        let (sender, tried) = mpsc::channel();
        let mut queue = Queue::start(Failing(sender), || {}).unwrap();
        for line in ["a", "ab", "abc"] {
            queue.write_all(line.as_bytes()).unwrap();
        }
        queue.wait();
        assert_eq!(tried.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
