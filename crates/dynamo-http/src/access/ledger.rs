//! The tokens of one key: what was used and what is reserved, in each time that may be limited.

use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::budget::{Counted, Span, TokenLimit, TokenLimits};
use super::window::{Calendar, Moment, Window};

#[cfg(test)]
mod tests;

const MINUTE: u128 = 60 * 1_000_000_000;

/// Tokens of prompts and of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

impl Amount {
    /// The tokens that a limit counts.
    pub(crate) const fn of(self, counted: Counted) -> u64 {
        match counted {
            Counted::All => self.input.saturating_add(self.output),
            Counted::Input => self.input,
            Counted::Output => self.output,
        }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }

    fn max(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), output: self.output.max(other.output) }
    }

    const fn without(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_sub(other.input),
            output: self.output.saturating_sub(other.output),
        }
    }
}

/// Why tokens cannot be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The estimate is above a whole limit, so waiting does not help.
    TooLarge { limit: TokenLimit, needed: u64 },
    /// A window of the calendar has not enough left. It ends then, since 1970.
    Window { limit: TokenLimit, ends: Duration },
    /// A bucket has not enough now, and has it after this time.
    Minute { limit: TokenLimit, wait: Duration },
}

/// How much of a limit is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// The time until nothing of the limit is used.
    pub(crate) resets_in: Duration,
}

impl Share {
    /// Whether a smaller part of this one is left than of the other.
    pub(crate) fn is_less_than(&self, other: &Self) -> bool {
        let product = |one: u64, other: u64| u128::from(one) * u128::from(other);
        product(self.remaining, other.limit) < product(other.remaining, self.limit)
    }
}

/// The tokens of one key. They outlive a change of its limits.
///
/// All limits of a key are checked and taken from together, so one lock guards them. It is held for
/// some arithmetic, by requests of keys with token limits only.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By what is counted.
    buckets: [Bucket; 3],
    /// By calendar.
    counts: [Counts; 2],
}

/// What a request has reserved. It is settled exactly once, since that consumes it.
#[derive(Debug)]
#[must_use]
pub(super) struct Held {
    estimate: Amount,
    /// The windows in which the request began, in the order of [`Calendar::ALL`].
    windows: [Window; 2],
    /// The limits of the buckets that it was taken from.
    minute: [Option<NonZeroU64>; 3],
}

impl Ledger {
    /// Reserves an estimate, if no limit forbids it.
    ///
    /// # Errors
    ///
    /// The limit that forbids it, and then nothing is reserved: first one that is too small for the
    /// request at all, then one whose window ends latest.
    pub(super) fn reserve(
        &self,
        limits: &TokenLimits,
        estimate: Amount,
        now: Moment,
    ) -> Result<Held, Denied> {
        let too_large = limits.iter().find(|limit| estimate.of(limit.counted) > limit.most.get());
        if let Some(limit) = too_large {
            return Err(Denied::TooLarge { limit, needed: estimate.of(limit.counted) });
        }
        let mut state = self.lock();
        let windows = Calendar::ALL.map(|calendar| calendar.at(now.wall));
        let ended = limits.iter().filter(|limit| {
            Calendar::of(limit.span).is_some_and(|calendar| {
                let count = state.counts[calendar as usize].of(windows[calendar as usize]);
                count.taken().and(estimate).of(limit.counted) > limit.most.get()
            })
        });
        if let Some(limit) = ended.max_by_key(|limit| limit.span) {
            let ends = Calendar::of(limit.span).map(|calendar| windows[calendar as usize].ends());
            return Err(Denied::Window { limit, ends: ends.unwrap_or_default() });
        }
        let minute = Counted::ALL.map(|counted| limits.most(counted, Span::Minute));
        let waits = limits.iter().filter(|limit| limit.span == Span::Minute).filter_map(|limit| {
            let bucket = &mut state.buckets[limit.counted as usize];
            bucket.drain(limit.most, now.steady);
            Some((limit, bucket.wait(limit.most, estimate.of(limit.counted))?))
        });
        if let Some((limit, wait)) = waits.max_by_key(|(_, wait)| *wait) {
            return Err(Denied::Minute { limit, wait });
        }
        for counted in Counted::ALL {
            if minute[counted as usize].is_some() {
                state.buckets[counted as usize].take(estimate.of(counted));
            }
        }
        for (counts, window) in state.counts.iter_mut().zip(windows) {
            let count = counts.entry(window);
            count.reserved = count.reserved.and(estimate);
            count.open += 1;
        }
        Ok(Held { estimate, windows, minute })
    }

    /// Replaces what was reserved by what was used.
    #[expect(clippy::needless_pass_by_value, reason = "it is consumed, so it is settled once")]
    pub(super) fn settle(&self, held: Held, used: Amount, now: Moment) {
        let Held { estimate, windows, minute } = held;
        let mut state = self.lock();
        for counted in Counted::ALL {
            if let Some(limit) = minute[counted as usize] {
                let bucket = &mut state.buckets[counted as usize];
                bucket.drain(limit, now.steady);
                bucket.give_back(estimate.of(counted));
                bucket.take(used.of(counted));
            }
        }
        for (counts, window) in state.counts.iter_mut().zip(windows) {
            let count = counts.entry(window);
            count.reserved = count.reserved.without(estimate);
            count.used = count.used.and(used);
            count.open = count.open.saturating_sub(1);
        }
    }

    /// How much is left of each limit.
    pub(crate) fn shares(
        &self,
        limits: &TokenLimits,
        now: Moment,
    ) -> impl Iterator<Item = (TokenLimit, Share)> {
        let mut state = self.lock();
        let shares: Vec<_> = limits
            .iter()
            .map(|limit| {
                let most = limit.most.get();
                let (taken, resets_in) = match Calendar::of(limit.span) {
                    None => {
                        let bucket = &mut state.buckets[limit.counted as usize];
                        bucket.drain(limit.most, now.steady);
                        (bucket.tokens(), bucket.empties_in(limit.most))
                    }
                    Some(calendar) => {
                        let window = calendar.at(now.wall);
                        let taken = state.counts[calendar as usize].of(window).taken();
                        (taken.of(limit.counted), window.ends().saturating_sub(now.wall))
                    }
                };
                let remaining = most.saturating_sub(taken);
                (limit, Share { limit: most, remaining, resets_in })
            })
            .collect();
        drop(state);
        shares.into_iter()
    }

    /// What was used in each window, as far as it is kept; those of this moment are among them.
    pub(super) fn used(&self, now: Moment) -> Vec<(Window, Amount)> {
        let state = self.lock();
        let mut used = Vec::new();
        for calendar in Calendar::ALL {
            let counts = &state.counts[calendar as usize];
            let window = calendar.at(now.wall);
            if counts.0.iter().all(|count| count.window != window) {
                used.push((window, Amount::default()));
            }
            used.extend(counts.0.iter().map(|count| (count.window, count.used)));
        }
        used
    }

    /// Sets what others have used in a window. It only grows.
    pub(super) fn others_used(&self, window: Window, used: Amount) {
        let mut state = self.lock();
        let count = state.counts[window.calendar() as usize].entry(window);
        count.others = count.others.max(used);
    }

    /// Whether nothing was used or reserved in the windows of this moment.
    pub(super) fn is_empty(&self, now: Moment) -> bool {
        let state = self.lock();
        Calendar::ALL.iter().all(|calendar| {
            let counts = &state.counts[*calendar as usize];
            counts.0.iter().all(|count| count.open == 0)
                && counts.of(calendar.at(now.wall)).used == Amount::default()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in steps that do not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts of the windows of a calendar: those in use, and the last three.
#[derive(Debug, Default)]
struct Counts(Vec<Count>);

#[derive(Clone, Copy, Debug)]
struct Count {
    window: Window,
    used: Amount,
    reserved: Amount,
    /// What other frontends have used, as far as they have told.
    others: Amount,
    /// How many requests have reserved something.
    open: u32,
}

impl Count {
    const fn new(window: Window) -> Self {
        let none = Amount { input: 0, output: 0 };
        Self { window, used: none, reserved: none, others: none, open: 0 }
    }

    /// What counts against a limit.
    const fn taken(&self) -> Amount {
        self.used.and(self.reserved).and(self.others)
    }
}

impl Counts {
    /// How many windows are kept beside a new one without a request in them. The clock on the wall may
    /// be set back a little, and clocks of others differ a little: then the window before or the one to
    /// come has counts as well as that of now.
    const KEPT: usize = 2;

    fn of(&self, window: Window) -> Count {
        let found = self.0.iter().find(|count| count.window == window);
        found.copied().unwrap_or(Count::new(window))
    }

    fn entry(&mut self, window: Window) -> &mut Count {
        let at = self.0.iter().position(|count| count.window == window).unwrap_or_else(|| {
            // In the order of time: one that was learned late is older than one that is in use.
            self.0.sort_unstable_by_key(|count| count.window);
            let idle = self.0.iter().filter(|count| count.open == 0).count();
            let mut excess = idle.saturating_sub(Self::KEPT);
            self.0.retain(|count| {
                let goes = count.open == 0 && excess > 0;
                excess -= usize::from(goes);
                !goes
            });
            self.0.push(Count::new(window));
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

/// A bucket of tokens that fills evenly. It may be taken from beyond its bottom, since an answer may
/// be longer than was estimated.
#[derive(Debug, Default)]
struct Bucket {
    /// What is missing, in tokens times the nanoseconds of a minute: in a nanosecond it gets less by
    /// the limit.
    missing: u128,
    at: Duration,
}

impl Bucket {
    const fn units(tokens: u64) -> u128 {
        tokens as u128 * MINUTE
    }

    /// Lets the time until now fill the bucket.
    fn drain(&mut self, limit: NonZeroU64, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.missing = self.missing.saturating_sub(passed.saturating_mul(u128::from(limit.get())));
        self.at = self.at.max(now);
    }

    fn take(&mut self, tokens: u64) {
        self.missing = self.missing.saturating_add(Self::units(tokens));
    }

    fn give_back(&mut self, tokens: u64) {
        self.missing = self.missing.saturating_sub(Self::units(tokens));
    }

    /// The time until there are so many tokens. None if they are there now.
    fn wait(&self, limit: NonZeroU64, tokens: u64) -> Option<Duration> {
        let after = self.missing.saturating_add(Self::units(tokens));
        let excess = after.saturating_sub(Self::units(limit.get()));
        (excess > 0).then(|| Self::time(excess, limit))
    }

    /// The time until the bucket is full.
    fn empties_in(&self, limit: NonZeroU64) -> Duration {
        Self::time(self.missing, limit)
    }

    /// The missing tokens, rounded up.
    fn tokens(&self) -> u64 {
        u64::try_from(self.missing.div_ceil(MINUTE)).unwrap_or(u64::MAX)
    }

    fn time(missing: u128, limit: NonZeroU64) -> Duration {
        let nanoseconds = missing.div_ceil(u128::from(limit.get()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}
