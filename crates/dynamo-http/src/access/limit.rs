//! The limits of a key's requests, and the counters of the key.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::budget::TokenLimits;
use super::ledger::{Amount, Denied, Ledger, Share};
use super::reservation::Reservation;
use super::window::Clock;
use crate::meter::Spent;

/// The counters of one key's requests. They outlive a change of the key's limits and of the key
/// itself.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    bucket: Bucket,
    in_flight: AtomicU32,
    succeeded: AtomicU64,
    failed: AtomicU64,
    too_fast: AtomicU64,
    too_many: AtomicU64,
    /// The tokens against the key's limits. It stays empty where the key has none.
    pub(super) ledger: Ledger,
    tokens: [AtomicU64; 2],
    estimated: [AtomicU64; 2],
    denied: [AtomicU64; 3],
}

/// The limit that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// The requests in a minute. The next request may begin after this time.
    Rate(Duration),
    /// The requests at one time.
    Concurrency,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) in_flight: u32,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) too_fast: u64,
    pub(crate) too_many: u64,
    /// The tokens of prompts and of answers.
    pub(crate) tokens: [u64; 2],
    /// Those of them that no engine told.
    pub(crate) estimated: [u64; 2],
    /// Requests that were refused for their tokens: by a minute's limit, by a day's or a month's, and
    /// since a whole limit is too small.
    pub(crate) denied: [u64; 3],
}

impl Usage {
    /// Begins a request, if the limits allow one more. `now` is the time of any clock that does not
    /// go back.
    pub(crate) fn begin(
        self: &Arc<Self>,
        requests_per_minute: Option<NonZeroU32>,
        concurrent: Option<NonZeroU32>,
        now: Duration,
    ) -> Result<Permit, Exceeded> {
        let in_flight = InFlight::add(self);
        if concurrent.is_some_and(|most| in_flight.others >= most.get()) {
            self.too_many.fetch_add(1, Ordering::Relaxed);
            return Err(Exceeded::Concurrency);
        }
        if let Some(rate) = requests_per_minute {
            self.bucket.take(rate, now).map_err(|wait| {
                self.too_fast.fetch_add(1, Ordering::Relaxed);
                Exceeded::Rate(wait)
            })?;
        }
        Ok(Permit { in_flight, success: false, reservation: None })
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            succeeded: of(&self.succeeded),
            failed: of(&self.failed),
            too_fast: of(&self.too_fast),
            too_many: of(&self.too_many),
            tokens: self.tokens.each_ref().map(of),
            estimated: self.estimated.each_ref().map(of),
            denied: self.denied.each_ref().map(of),
        }
    }

    /// How much is left of a minute's requests.
    pub(super) fn requests(&self, per_minute: NonZeroU32, now: Duration) -> Share {
        self.bucket.share(per_minute, now)
    }

    /// Counts a refusal for the request's tokens.
    fn note(&self, denied: &Denied) {
        let kind = match denied {
            Denied::Minute { .. } => 0,
            Denied::Window { .. } => 1,
            Denied::TooLarge { .. } => 2,
        };
        self.denied[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the tokens of a request.
    fn count(&self, spent: Spent) {
        for (kind, tokens) in [spent.input, spent.output].into_iter().enumerate() {
            self.tokens[kind].fetch_add(tokens, Ordering::Relaxed);
            if spent.estimated {
                self.estimated[kind].fetch_add(tokens, Ordering::Relaxed);
            }
        }
    }
}

/// The permission for a request, from its beginning to the end of its answer. The request counts as
/// failed unless [`succeeded`](Self::succeeded) was called.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: InFlight,
    success: bool,
    /// What the request has reserved, where its key has limits on tokens. Boxed, since few keys do.
    reservation: Option<Box<Reservation>>,
}

impl Permit {
    /// Reserves the tokens of the request.
    ///
    /// # Errors
    ///
    /// The limit that forbids it.
    pub(super) fn reserve(
        &mut self,
        limits: &TokenLimits,
        estimate: Amount,
        clock: Clock,
    ) -> Result<(), Denied> {
        let usage = &self.in_flight.usage;
        let held = usage.ledger.reserve(limits, estimate, clock.now());
        let held = held.inspect_err(|denied| usage.note(denied))?;
        self.reservation = Some(Box::new(Reservation::new(held, estimate.input, clock)));
        Ok(())
    }

    /// What the request has reserved, until it is settled.
    pub(crate) fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_deref()
    }

    /// Counts what the request has used, and gives the rest of what it has reserved back. With `None`
    /// no engine took the request. Later calls change nothing where something was reserved.
    pub(crate) fn settle(&mut self, spent: Option<Spent>) {
        let usage = &self.in_flight.usage;
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(&usage.ledger, spent);
        }
        if let Some(spent) = spent {
            usage.count(spent);
        }
    }

    /// Marks the request as a success.
    pub(crate) fn succeeded(&mut self) {
        self.success = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let spent = self.reservation().and_then(Reservation::abandoned);
        self.settle(spent);
        let Usage { succeeded, failed, .. } = &*self.in_flight.usage;
        if self.success { succeeded } else { failed }.fetch_add(1, Ordering::Relaxed);
    }
}

/// One of the requests in flight.
#[derive(Debug)]
struct InFlight {
    usage: Arc<Usage>,
    /// The number of requests in flight when this one began.
    others: u32,
}

impl InFlight {
    fn add(usage: &Arc<Usage>) -> Self {
        Self { usage: usage.clone(), others: usage.in_flight.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.usage.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A bucket that holds a minute's requests and fills evenly (the generic cell rate algorithm).
///
/// All of its state is one number: when it would be full again, in nanoseconds of the clock.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Bucket {
    const MINUTE: u64 = 60 * 1_000_000_000;

    /// Takes one request out of the bucket, or returns the time until there is one.
    fn take(&self, per_minute: NonZeroU32, now: Duration) -> Result<(), Duration> {
        const MINUTE: u64 = Bucket::MINUTE;
        let share = MINUTE / u64::from(per_minute.get());
        let now = nanoseconds(now);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = full_at.max(now).saturating_add(share);
            (full_at - now <= MINUTE).then_some(full_at)
        });
        taken.map(drop).map_err(|full_at| {
            Duration::from_nanos(full_at.max(now).saturating_add(share) - now - MINUTE)
        })
    }

    /// How many requests are left in the bucket, and when it is full.
    fn share(&self, per_minute: NonZeroU32, now: Duration) -> Share {
        let share = Self::MINUTE / u64::from(per_minute.get());
        let now = nanoseconds(now);
        let missing = self.0.load(Ordering::Relaxed).saturating_sub(now);
        let limit = u64::from(per_minute.get());
        let remaining = limit.saturating_sub(missing.div_ceil(share));
        Share { limit, remaining, resets_in: Duration::from_nanos(missing) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn limit(value: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(value)
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_minutes_requests_may_come_at_once_and_then_one_with_every_share() {
        let usage = Arc::<Usage>::default();
        let begin = |now| usage.begin(limit(60), None, seconds(now)).map(drop);
        for _ in 0..60 {
            assert_eq!(begin(100.0), Ok(()));
        }
        assert_eq!(begin(100.0), Err(Exceeded::Rate(seconds(1.0))));
        assert_eq!(begin(100.75), Err(Exceeded::Rate(seconds(0.25))));
        assert_eq!(begin(101.0), Ok(()));
        assert_eq!(begin(101.0), Err(Exceeded::Rate(seconds(1.0))));
        assert_eq!(usage.counts().too_fast, 3);
        // A bucket that was left alone is full, and no fuller.
        for _ in 0..60 {
            assert_eq!(begin(1000.0), Ok(()));
        }
        assert!(begin(1000.0).is_err());
    }

    #[test]
    fn a_place_is_free_again_when_its_request_has_ended() {
        let usage = Arc::<Usage>::default();
        let begin = || usage.begin(None, limit(2), Duration::ZERO);
        let (mut first, second) = (begin().unwrap(), begin().unwrap());
        assert_eq!(begin().map(drop), Err(Exceeded::Concurrency));
        assert_eq!(usage.counts().in_flight, 2, "who was refused takes no place");
        first.succeeded();
        drop(first);
        let third = begin().unwrap();
        drop((second, third));
        let counts = usage.counts();
        assert_eq!((counts.in_flight, counts.succeeded, counts.failed), (0, 1, 2));
        assert_eq!(counts.too_many, 1);
    }

    #[test]
    fn a_request_that_finds_no_place_takes_nothing_from_the_minute() {
        let usage = Arc::<Usage>::default();
        let begin = || usage.begin(limit(2), limit(1), Duration::ZERO);
        let first = begin().unwrap();
        assert_eq!(begin().map(drop), Err(Exceeded::Concurrency));
        drop(first);
        assert!(begin().is_ok());
        assert!(matches!(begin().map(drop), Err(Exceeded::Rate(_))));
    }

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_than_a_full_bucket_and_what_filled_it(
            per_minute in 1_u32..10_000,
            steps in proptest::collection::vec(0_u64..5_000, 1..300),
        ) {
            let bucket = Bucket::default();
            let rate = NonZeroU32::new(per_minute).unwrap();
            let (mut now, mut taken) = (Duration::from_secs(1000), 0_u64);
            let began = now;
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(rate, now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        // It says when there is one, to the nanosecond.
                        prop_assert!(wait > Duration::ZERO);
                        prop_assert!(bucket.take(rate, now + wait - Duration::from_nanos(1)).is_err());
                    }
                }
            }
            let filled = (now - began).as_secs_f64() * f64::from(per_minute) / 60.0;
            prop_assert!(taken as f64 <= f64::from(per_minute) + filled + 1.0);
        }
    }
}
