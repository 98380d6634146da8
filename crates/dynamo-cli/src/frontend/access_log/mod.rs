//! The access log: a line of JSON about each request, in a file or on stdout.
//!
//! A thread that serves requests moves a record into a bounded queue. The thread of the queue makes
//! the line and writes it.

mod file;
mod line;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context as _;
use dynamo_http::{AccessLog, AccessRecord};

use crate::failure::Failure;
use crate::queue::Queue;
use crate::settings::table::Access;
use file::{Output, Writer};

/// An access log that is written. Dropped, it is written to its end, as far as the output takes it.
#[derive(Debug)]
pub(super) struct AccessLogFile {
    queue: Queue<Box<AccessRecord>>,
    shared: Arc<Shared>,
}

/// What the queue's thread shares with others.
#[derive(Debug, Default)]
struct Shared {
    /// Whether the file is to be opened again.
    reopen: AtomicBool,
    written: AtomicU64,
    /// Lines that could not be written.
    failed: AtomicU64,
}

/// Asks for the file to be opened again.
#[derive(Clone, Debug)]
pub(super) struct Reopening(Queue<Box<AccessRecord>>, Arc<Shared>);

/// How many lines were written, and how many were lost. Without an access log, none.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Option<(Queue<Box<AccessRecord>>, Arc<Shared>)>);

impl AccessLogFile {
    /// Opens the file, or stdout for `-`, and starts the thread that writes to it.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or when there can be no thread.
    pub(super) fn start(path: PathBuf) -> Result<Self, Failure> {
        let shown = format!("{}: {}", Access::access_log.label(), path.display());
        let output = Output::open(path).context(shown).map_err(Failure::Usage)?;
        let shared = Arc::<Shared>::default();
        let queue = Queue::start("access-log", Writer::new(output, shared.clone()))
            .context("cannot start the access log")
            .map_err(Failure::Running)?;
        Ok(Self { queue, shared })
    }

    /// What puts records into the queue.
    pub(super) fn log(&self) -> AccessLog {
        let queue = self.queue.clone();
        AccessLog::new(move |record| queue.put(record))
    }

    pub(super) fn reopening(&self) -> Reopening {
        Reopening(self.queue.clone(), self.shared.clone())
    }

    pub(super) fn counts(&self) -> Counts {
        Counts(Some((self.queue.clone(), self.shared.clone())))
    }
}

impl Drop for AccessLogFile {
    fn drop(&mut self) {
        self.queue.wait();
    }
}

impl Reopening {
    /// Has the thread open the file again before it writes the next line.
    pub(super) fn ask(&self) {
        let Self(queue, shared) = self;
        shared.reopen.store(true, Ordering::Relaxed);
        queue.wake();
    }
}

impl Counts {
    /// The metrics, in Prometheus' text format. All series exist from the start.
    pub(super) fn text(&self) -> String {
        let (written, failed, dropped) = self.0.as_ref().map_or((0, 0, 0), |(queue, shared)| {
            let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
            (of(&shared.written), of(&shared.failed), queue.counts().2)
        });
        let (lines, lost) =
            ("dynamo_frontend_access_log_lines_total", "dynamo_frontend_access_log_lost_total");
        format!(
            "# HELP {lines} Lines of the access log that were written\n\
             # TYPE {lines} counter\n\
             {lines} {written}\n\
             # HELP {lost} Lines of the access log that were lost, by the reason\n\
             # TYPE {lost} counter\n\
             {lost}{{reason=\"queue_full\"}} {dropped}\n\
             {lost}{{reason=\"write_failed\"}} {failed}\n"
        )
    }
}
