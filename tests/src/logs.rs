//! The log lines of the code under test in this process, one capture for each test.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The log lines of one thread: those of one test, if the test runs on its own thread only.
///
/// All tests share one subscriber, which never changes: a subscriber for each test would race with
/// the other tests.
pub struct Logs(());

impl Logs {
    /// Begins to capture the log lines of our crates on this thread.
    pub fn capture() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            tracing_subscriber::fmt()
                .with_env_filter("dynamo_discovery=trace,dynamo_http=trace")
                .with_ansi(false)
                .with_writer(|| OfThisThread)
                .init();
        });
        LINES.set(Some(Vec::new()));
        Self(())
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        LINES.with_borrow(|lines| {
            String::from_utf8_lossy(lines.as_deref().unwrap_or_default()).into_owned()
        })
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

struct OfThisThread;

impl io::Write for OfThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
