//! How many requests a worker's server has in flight, and who waits until there are fewer.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::line::{Line, Rank, Ticket};
use crate::live::Live;

/// What has had no request for so long is not in use, and nobody asks about it.
pub(super) const UNUSED: Duration = Duration::from_secs(300);
/// A request that begins, as it is added to [`Load::requests`].
const BEGUN: u64 = 1 << 32 | IN_FLIGHT;
/// A request in flight.
const IN_FLIGHT: u64 = 1;

/// How many requests each server may have in flight; `None` for any number.
pub(crate) type ConcurrencyLimit = Live<Option<NonZeroUsize>>;

/// The requests in flight at one server, and those that wait for a place there.
///
/// While a request waits, no other one begins: a place that becomes free goes to the one whose turn it
/// is.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// How many requests began so far in the upper half, which wraps, and how many of them are in
    /// flight in the lower half. One addition counts both.
    requests: AtomicU64,
    /// Whether there was a request since this was last asked.
    used: AtomicBool,
    /// How many wait in the line, so that a request that ends does without its lock. This and
    /// `requests` are in one order for all threads: whoever ends a request sees who waits, or the one
    /// who joins sees that it has ended.
    waiting: AtomicUsize,
    /// Made when the first request waits.
    line: OnceLock<Box<Mutex<Waiting>>>,
}

/// Those who wait, and under which limit. Whose turn has come is told so, and is in flight from then on.
#[derive(Debug)]
struct Waiting {
    limit: Arc<ConcurrencyLimit>,
    line: Line<oneshot::Sender<()>>,
}

impl Load {
    pub(crate) fn in_flight(&self) -> usize {
        in_flight(self.requests.load(Relaxed))
    }

    /// How many requests began so far. It wraps.
    pub(crate) fn begun(&self) -> u32 {
        (self.requests.load(Relaxed) >> 32) as u32
    }

    /// One more request is in flight, if it fits and no other one waits.
    pub(super) fn begins(&self, limit: Option<NonZeroUsize>) -> bool {
        let begins = match limit {
            None => {
                self.requests.fetch_add(BEGUN, Relaxed);
                true
            }
            Some(limit) => self.waiting.load(SeqCst) == 0 && self.begins_within(limit),
        };
        if begins && !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
        begins
    }

    fn begins_within(&self, limit: NonZeroUsize) -> bool {
        let begin = |requests| {
            (in_flight(requests) < limit.get()).then(|| u64::wrapping_add(requests, BEGUN))
        };
        self.requests.fetch_update(SeqCst, SeqCst, begin).is_ok()
    }

    /// One of the requests in flight has ended. The next one begins.
    pub(super) fn end(&self) {
        self.requests.fetch_sub(IN_FLIGHT, SeqCst);
        self.go_on();
    }

    /// Whether there was a request since this was last asked, or there is one now.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Relaxed) || self.in_flight() > 0
    }

    /// Whether one more request fits.
    pub(crate) fn has_room(&self, limit: Option<NonZeroUsize>) -> bool {
        limit.is_none_or(|limit| self.in_flight() < limit.get() && self.waiting.load(Relaxed) == 0)
    }

    /// Joins the line of those who wait for a place. The receiver is told when the request is in
    /// flight. The one who joins must [`leave`](Self::leave), or else [`end`](Self::end) the request.
    pub(super) fn join(
        &self,
        limit: &Arc<ConcurrencyLimit>,
        rank: Rank,
    ) -> (Ticket, oneshot::Receiver<()>) {
        let (sender, told) = oneshot::channel();
        let line = self.line.get_or_init(|| {
            Box::new(Mutex::new(Waiting { limit: limit.clone(), line: Line::default() }))
        });
        let ticket = {
            let mut waiting = lock(line);
            self.waiting.fetch_add(1, SeqCst);
            waiting.line.join(rank, sender)
        };
        self.go_on();
        (ticket, told)
    }

    /// Leaves the line. A request that is in flight by now, unheard, ends.
    pub(super) fn leave(&self, ticket: Ticket) {
        let has_left = self.line.get().is_some_and(|line| {
            let mut waiting = lock(line);
            let has_left = waiting.line.leave(ticket).is_some();
            self.waiting.fetch_sub(usize::from(has_left), SeqCst);
            has_left
        });
        if !has_left {
            self.end();
        }
    }

    /// Has those begin whose turn it is, while they fit.
    pub(crate) fn go_on(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let Some(line) = self.line.get() else { return };
        let mut waiting = lock(line);
        let Waiting { limit, line } = &mut *waiting;
        let now = Instant::now();
        let fits = || match limit.now() {
            Some(limit) => self.begins_within(limit),
            None => self.begins(None),
        };
        while !line.is_empty() && fits() {
            if let Some(next) = line.next(now) {
                self.waiting.fetch_sub(1, SeqCst);
                self.used.store(true, Relaxed);
                // One that has just left finds that its turn has come, and ends what began here.
                let _ = next.send(());
            }
        }
    }
}

/// How many of these are in flight.
fn in_flight(requests: u64) -> usize {
    requests as u32 as usize
}

fn lock(line: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // Each change to it is one call, so a panic elsewhere leaves it whole.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}
