//! Log lines on their way to stderr, which may be slow, full or closed.

use std::io::{self, Write};

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use crate::queue::{Queue, Sink};

/// Where log lines go. Each of some 200 bytes waits in a [`Queue`] for stderr. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Lines(Queue<Vec<u8>>);

/// The output, and what else is told when lines were dropped.
struct Out<W, R> {
    out: W,
    report: R,
}

impl Lines {
    /// Starts the thread that writes. `report` is called in it, now and then, to log what is to be
    /// told.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        report: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        Queue::start("log", Out { out, report }).map(Self)
    }

    /// Logs how many lines were dropped since the last report.
    pub(super) fn report(&self) {
        tell(self.0.take_untold());
    }

    /// How many lines wait, how many may, and how many found no room so far.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        self.0.counts()
    }

    /// Waits until all lines are written, but not for long.
    pub(super) fn wait(&self) {
        self.0.wait();
    }
}

fn tell(lines: u64) {
    if lines > 0 {
        warn!(lines, "log lines were dropped: stderr takes them too slowly");
    }
}

impl<W: Write + Send + 'static, R: Fn() + Send + 'static> Sink<Vec<u8>> for Out<W, R> {
    fn take(&mut self, line: Vec<u8>) {
        // A line that cannot be written is lost: there is no one to tell.
        drop(self.out.write_all(&line));
    }

    fn rest(&mut self) {
        let _ = self.out.flush();
    }

    fn report(&mut self, dropped: u64) {
        tell(dropped);
        (self.report)();
    }
}

/// One line is written at once.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

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
        let mut lines = Lines::start(Failing(sender), || {}).unwrap();
        for line in ["a", "ab", "abc"] {
            lines.write_all(line.as_bytes()).unwrap();
        }
        lines.wait();
        assert_eq!(tried.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
