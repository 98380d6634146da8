//! The output of the access log, and how lines get there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use dynamo_http::AccessRecord;
use memchr::memchr_iter;
use tracing::{info, warn};

use super::Shared;
use super::line::Lines;
use crate::queue::Sink;

#[cfg(test)]
mod tests;

/// Who may read a new file: its owner and its group.
const MODE: u32 = 0o640;
/// How much is written at once.
const PIECE: usize = 64 * 1024;
/// How long the thread sleeps after it has written. Meanwhile the lines of a busy frontend collect,
/// and serving threads need not wake it for each of them.
const NAP: Duration = Duration::from_millis(5);

/// A file, or stdout.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// Where it can be opened again; `None` for stdout.
    path: Option<PathBuf>,
}

impl Output {
    /// Opens a file, or stdout for `-`. A pipe with a name is opened without waiting for its reader.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened for appending.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            // A file of its own, since Rust's stdout keeps what could not be written.
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Self { file, path: None });
        }
        let is_pipe = fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        let mut options = OpenOptions::new();
        if is_pipe {
            // Linux opens it at once if it is to be read as well.
            options.read(true).write(true);
        } else {
            options.append(true).create(true).mode(MODE);
        }
        Ok(Self { file: options.open(&path)?, path: Some(path) })
    }

    /// Opens the file at the same path, which may be another one by now. If that fails, the old one
    /// stays. Returns whether it is a new one.
    fn reopen(&mut self) -> bool {
        let Some(path) = self.path.clone() else { return false };
        match Self::open(path) {
            Ok(output) => {
                *self = output;
                info!("the access log was opened again");
                true
            }
            Err(error) => {
                warn!(%error, "the access log cannot be opened again; the old file stays in use");
                false
            }
        }
    }
}

/// Makes lines and writes them, in the thread of the queue.
#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    shared: Arc<Shared>,
    maker: Lines,
    /// Lines that are to be written.
    buffer: Vec<u8>,
    /// How many they are.
    lines: u64,
    /// Whether the last line in the output has no end.
    is_torn: bool,
    /// Lines that failed since the last report, and why the last of them did.
    failed: u64,
    error: Option<io::Error>,
}

impl Writer {
    pub(super) fn new(output: Output, shared: Arc<Shared>) -> Self {
        Self {
            output,
            shared,
            maker: Lines::default(),
            buffer: Vec::with_capacity(PIECE),
            lines: 0,
            is_torn: false,
            failed: 0,
            error: None,
        }
    }

    fn write(&mut self) {
        if self.shared.reopen.swap(false, Ordering::Relaxed) && self.output.reopen() {
            self.is_torn = false;
        }
        if self.lines == 0 {
            return;
        }
        let (written, error) = write_lines(&mut self.output.file, &self.buffer, &mut self.is_torn);
        let failed = self.lines - written;
        self.shared.written.fetch_add(written, Ordering::Relaxed);
        self.shared.failed.fetch_add(failed, Ordering::Relaxed);
        self.failed += failed;
        self.error = error.or(self.error.take());
        self.buffer.clear();
        self.lines = 0;
    }
}

/// Writes lines, and returns how many of them are there in full. `is_torn` says whether the output
/// ends within a line: an end comes before the next one then.
fn write_lines(
    out: &mut impl Write,
    mut lines: &[u8],
    is_torn: &mut bool,
) -> (u64, Option<io::Error>) {
    let mut written = 0;
    if *is_torn {
        match out.write(b"\n") {
            Ok(1) => *is_torn = false,
            Ok(_) => return (0, Some(ErrorKind::WriteZero.into())),
            Err(error) => return (0, Some(error)),
        }
    }
    while !lines.is_empty() {
        match out.write(lines) {
            Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
            Ok(count) => {
                let (done, rest) = lines.split_at(count);
                written += memchr_iter(b'\n', done).count() as u64;
                *is_torn = done.last() != Some(&b'\n');
                lines = rest;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

impl Sink<Box<AccessRecord>> for Writer {
    fn take(&mut self, record: Box<AccessRecord>) {
        self.maker.append(&mut self.buffer, &record);
        self.lines += 1;
        if self.buffer.len() >= PIECE {
            self.write();
        }
    }

    fn rest(&mut self) {
        let is_busy = self.lines > 0;
        self.write();
        if is_busy {
            thread::sleep(NAP);
        }
    }

    fn report(&mut self, dropped: u64) {
        if dropped > 0 {
            warn!(lines = dropped, "lines of the access log were lost: it is read too slowly");
        }
        let (lines, error) = (std::mem::take(&mut self.failed), self.error.take());
        if let Some(error) = error {
            warn!(lines, %error, "lines of the access log were lost: they cannot be written");
        }
    }
}
