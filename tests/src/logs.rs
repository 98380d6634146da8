//! What the code under test logs in this process, told apart by test.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The logs of one thread, which is one test where all of it runs on the thread of the test.
///
/// The subscriber is the same for all, and never changes: one that comes and goes would race with
/// the tests beside it.
pub struct Logs(());

impl Logs {
    /// Begins to capture everything that our crates say on this thread.
    #[must_use]
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

    /// All that was said so far.
    #[must_use]
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
