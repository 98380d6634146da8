//! One engine as placement sees it: how much prefill it still owes, and since when it knows nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::index::Turn;
use super::path::hash;

/// An engine that requests are sent to. One that serves several models is one server for all of them.
#[derive(Debug)]
pub struct Server {
    /// The hash of its URL, for rendezvous hashing.
    pub(super) name: u64,
    /// How often it has begun anew.
    starts: AtomicU32,
    born: Instant,
    /// The prefill of requests whose first content is awaited, in tokens.
    awaited: AtomicU64,
    queue: Mutex<Queue>,
    /// The tokens of the first request in the queue, and since when the engine works on it, in
    /// nanoseconds after `born`.
    front: AtomicU32,
    front_since: AtomicU64,
    /// When the prefill of requests whose first content is not seen ends by estimate, in nanoseconds
    /// after `born`.
    drained: AtomicU64,
}

/// The requests whose first content is awaited, in the order in which they were sent.
#[derive(Debug, Default)]
struct Queue {
    next: u64,
    sent: VecDeque<Awaited>,
    /// The last first content, in nanoseconds after `born`.
    heard: u64,
}

/// A request whose first content is awaited.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    number: u64,
    tokens: u32,
    /// When it was sent, in nanoseconds after `born`.
    since: u64,
}

/// What a server owes to one request. It is given to [`Server::settle`] once.
#[derive(Debug)]
pub(super) enum Debt {
    /// The first content is awaited.
    Awaited { number: u64, tokens: u32, since: u64 },
    /// The time from and to which the server works by estimate.
    Drained { from: u64, to: u64 },
}

impl Server {
    /// A server by its URL, or by another name that is the same on all frontends. `now` is the
    /// beginning of its time: no later call may have an earlier one.
    pub fn new(url: &str, now: Instant) -> Self {
        Self {
            name: hash(0, url.as_bytes()),
            starts: AtomicU32::new(0),
            born: now,
            awaited: AtomicU64::new(0),
            queue: Mutex::default(),
            front: AtomicU32::new(0),
            front_since: AtomicU64::new(0),
            drained: AtomicU64::new(0),
        }
    }

    /// Notes that the engine has started anew and knows nothing: what was sent there before is no
    /// longer known to be cached.
    pub fn forget(&self) {
        self.starts.fetch_add(1, Relaxed);
    }

    pub(super) fn starts(&self) -> u32 {
        self.starts.load(Relaxed)
    }

    /// The prefill that the server still owes, in tokens, if it reads `rate` tokens in a second. What it
    /// has read by then of the request that it works on is not owed.
    pub fn outstanding(&self, rate: f32, now: Instant) -> f32 {
        let now = self.nanos(now);
        let left = self.drained.load(Relaxed).saturating_sub(now);
        let worked = now.saturating_sub(self.front_since.load(Relaxed));
        let read = (worked as f32 * 1e-9 * rate).min(self.front.load(Relaxed) as f32);
        // Another thread may change the numbers in between.
        (self.awaited.load(Relaxed) as f32 - read).max(0.0) + left as f32 * 1e-9 * rate
    }

    /// The number of the next request, and the first number whose prefill may not be done.
    pub(super) fn turns(&self, now: Instant) -> (Turn, Option<Turn>) {
        let queue = self.lock();
        // Prefill that ends by estimate has no number, so it may be that of any.
        let is_drained = self.drained.load(Relaxed) <= self.nanos(now);
        let first = queue.sent.front().map_or(queue.next, |first| first.number);
        (Turn::new(queue.next), is_drained.then_some(Turn::new(first)))
    }

    /// Adds a request's prefill until its first content.
    pub(super) fn owe_until_content(&self, tokens: u32, now: Instant) -> Debt {
        let since = self.nanos(now);
        let mut queue = self.lock();
        let number = queue.next;
        queue.next += 1;
        queue.sent.push_back(Awaited { number, tokens, since });
        self.awaited.fetch_add(tokens.into(), Relaxed);
        self.show_front(&queue);
        Debt::Awaited { number, tokens, since }
    }

    fn show_front(&self, queue: &Queue) {
        let front = queue.sent.front();
        self.front.store(front.map_or(0, |front| front.tokens), Relaxed);
        self.front_since.store(front.map_or(0, |front| front.since.max(queue.heard)), Relaxed);
    }

    /// Adds a request's prefill that drains at a rate, since its first content is not seen.
    pub(super) fn owe_for_a_time(&self, tokens: u32, rate: f32, now: Instant) -> Debt {
        let work = (tokens as f32 / rate * 1e9) as u64;
        let now = self.nanos(now);
        self.lock().next += 1;
        let add = |drained: u64| Some(drained.max(now) + work);
        // The closure always returns a value, so the update cannot fail.
        let from = self.drained.fetch_update(Relaxed, Relaxed, add).unwrap_or_else(|same| same);
        let from = from.max(now);
        Debt::Drained { from, to: from + work }
    }

    /// Removes what the server owes to a request. With its first content, what was sent there before is
    /// done as well, since engines prefill in order; then the answer is the rate in tokens a second, if
    /// one can be told.
    pub(super) fn settle(&self, debt: &Debt, has_content: bool, now: Instant) -> Option<f32> {
        let now = self.nanos(now);
        match *debt {
            Debt::Awaited { number, tokens, since } => {
                let mut queue = self.lock();
                let mut removed = 0;
                if has_content {
                    let done = queue.sent.partition_point(|sent| sent.number <= number);
                    removed +=
                        queue.sent.drain(..done).map(|sent| u64::from(sent.tokens)).sum::<u64>();
                } else if let Ok(at) = queue.sent.binary_search_by_key(&number, |sent| sent.number)
                {
                    removed += queue.sent.remove(at).map_or(0, |sent| u64::from(sent.tokens));
                }
                self.awaited.fetch_sub(removed, Relaxed);
                let began = since.max(queue.heard);
                if has_content {
                    queue.heard = queue.heard.max(now);
                }
                self.show_front(&queue);
                if !has_content {
                    return None;
                }
                let took = now.checked_sub(began).filter(|took| *took > 0)?;
                Some(tokens as f32 / (took as f32 * 1e-9))
            }
            Debt::Drained { from, to } => {
                let left = to.saturating_sub(from.max(now));
                if left > 0 {
                    let take = |drained: u64| Some(drained.saturating_sub(left));
                    let _ = self.drained.fetch_update(Relaxed, Relaxed, take);
                }
                None
            }
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
