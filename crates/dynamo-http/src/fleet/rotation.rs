//! The standing of one server, for everyone who tells or asks of it at the same time.
//!
//! [`Standing`] decides what an event means. Here it is one number: each look is an atomic load, and
//! a write happens only when something changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::standing::{Change, Event, Out, Standing};
use super::window::Window;

/// How long after the last byte a server with requests waiting is probed, and how often.
const PROBE_WAITING: Duration = Duration::from_millis(750);
/// How often a server that is out is probed. A server that recovers is noticed at most this much
/// later.
const PROBE_OUT: Duration = Duration::from_millis(400);

/// The standing of one server.
#[derive(Debug)]
pub(crate) struct Rotation {
    began: Instant,
    /// A packed [`Standing`].
    standing: AtomicU64,
    // Milliseconds since `began`, plus 1; 0 means never.
    heard: AtomicU64,
    probed: AtomicU64,
    /// When it was last put out.
    ejected: AtomicU64,
    /// Whether a byte has put it back since the upkeep last looked.
    returned: AtomicBool,
    /// Whether a probe is under way.
    probing: AtomicBool,
    /// It lost a connection, so it is asked at once how it fares.
    suspect: AtomicBool,
    /// Its failures of the last half minute.
    window: Window,
}

/// Why an instance gets no request, and for how long that has been so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    /// One of the [`reasons`](super::reasons).
    pub(crate) reason: &'static str,
    pub(crate) lasts: Duration,
}

impl Rotation {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            standing: AtomicU64::new(Standing::default().pack()),
            heard: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            ejected: AtomicU64::new(0),
            returned: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            window: Window::default(),
        }
    }

    fn standing(&self) -> Standing {
        Standing::unpack(self.standing.load(Relaxed))
    }

    /// Why it is out of rotation, if it is.
    pub(crate) fn out(&self) -> Option<Out> {
        self.standing().out(|| self.began.elapsed())
    }

    /// Why it is out of rotation, and for how long it has been, if it is.
    pub(super) fn outage(&self) -> Option<Outage> {
        let reason = self.out()?.name();
        Some(Outage { reason, lasts: self.since(&self.ejected, Instant::now()) })
    }

    /// Whether it was found not to be there.
    pub(crate) fn is_lost(&self) -> bool {
        self.out().is_some_and(Out::is_lost)
    }

    /// Its failures of the last half minute.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Takes in an event.
    fn tell(&self, event: Event, at: Instant) -> Option<Change> {
        let now = at.saturating_duration_since(self.began);
        let mut packed = self.standing.load(Relaxed);
        loop {
            let before = Standing::unpack(packed);
            let after = before.after(event, now);
            if after == before {
                return None;
            }
            match self.standing.compare_exchange_weak(packed, after.pack(), Relaxed, Relaxed) {
                Ok(_) => {
                    let change = after.change_since(before, now);
                    if matches!(change, Some(Change::Ejected(_))) {
                        self.ejected.store(self.millis(at), Relaxed);
                    }
                    return change;
                }
                Err(other) => packed = other,
            }
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(after + 1).unwrap_or(u64::MAX)
    }

    fn since(&self, stamp: &AtomicU64, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(stamp.load(Relaxed)))
    }

    /// Bytes came from it. That is for every frame, so it writes once a millisecond at most, and the
    /// upkeep tells what it changed ([`take_return`](Self::take_return)).
    pub(crate) fn heard(&self, at: Instant) {
        let millis = self.millis(at);
        if self.heard.load(Relaxed) == millis {
            return;
        }
        self.heard.store(millis, Relaxed);
        if self.standing().is_missed() && self.tell(Event::Byte, at) == Some(Change::Restored) {
            self.returned.store(true, Relaxed);
        }
    }

    /// What bytes have changed since this was last asked.
    pub(super) fn take_return(&self) -> Option<Change> {
        let returned = self.returned.load(Relaxed) && self.returned.swap(false, Relaxed);
        returned.then_some(Change::Restored)
    }

    /// It answered a request. A 5xx counts against it, but for 501, which names a missing feature,
    /// and 508, which names a loop that the server is only a part of. A 4xx never does.
    ///
    /// `stands_out` is asked when a failure may put it out: whether it fails more often than the
    /// other servers that get such requests.
    pub(crate) fn answered(
        &self,
        status: StatusCode,
        at: Instant,
        stands_out: impl FnOnce() -> bool,
    ) -> Option<Change> {
        self.heard(at);
        let is_failure = status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::LOOP_DETECTED;
        if is_failure { self.failed(at, stands_out) } else { self.tell(Event::Served, at) }
    }

    /// It answered a request with 503, and for how long it will be full. That is no failure.
    pub(crate) fn full(&self, pause: Duration, at: Instant) -> Option<Change> {
        self.heard(at);
        self.tell(Event::Full(pause), at)
    }

    /// A request failed at it, after it was sent.
    fn failed(&self, at: Instant, stands_out: impl FnOnce() -> bool) -> Option<Change> {
        self.window.failed();
        let stands_out = self.standing().is_on_the_brink() && stands_out();
        self.tell(Event::Failed { stands_out }, at)
    }

    /// It lost a connection that carried a request.
    pub(crate) fn lost(&self, at: Instant, stands_out: impl FnOnce() -> bool) -> Option<Change> {
        self.suspect.store(true, Relaxed);
        self.failed(at, stands_out)
    }

    /// It closed a reused connection that carried a request. It may just have closed an idle one, so
    /// this is no failure, and a probe shows whether it is there.
    pub(crate) fn closed_reused(&self) {
        self.suspect.store(true, Relaxed);
    }

    /// It took no connection.
    pub(crate) fn refused(&self) -> Option<Change> {
        self.tell(Event::Refused, Instant::now())
    }

    /// Whether it may be given one request, to see whether its answers are right again. The one who
    /// is told so must send one.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.began);
        let packed = self.standing.load(Relaxed);
        // Another thread may have been told so meanwhile.
        Standing::unpack(packed).tried(now).is_some_and(|tried| {
            self.standing.compare_exchange(packed, tried.pack(), Relaxed, Relaxed).is_ok()
        })
    }

    /// Whether it is time to probe it. `idle` is how long one without requests is left alone, if it
    /// is probed at all.
    pub(super) fn probe_is_due(&self, now: Instant, waiting: bool, idle: Option<Duration>) -> bool {
        let Some(idle) = idle else { return false };
        if self.probing.load(Relaxed) {
            return false;
        }
        let silent = self.since(&self.heard, now);
        let probed = self.since(&self.probed, now);
        match self.out() {
            Some(Out::Unreachable | Out::Unhealthy | Out::Unresponsive) => probed >= PROBE_OUT,
            _ if self.suspect.load(Relaxed) => true,
            _ => {
                let interval = if waiting { PROBE_WAITING.min(idle) } else { idle };
                silent >= interval && probed >= interval
            }
        }
    }

    /// A probe is under way from now on; no other one begins until [`end_probe`](Self::end_probe).
    pub(super) fn begin_probe(&self) -> Instant {
        let now = Instant::now();
        self.probing.store(true, Relaxed);
        self.probed.store(self.millis(now), Relaxed);
        self.suspect.store(false, Relaxed);
        now
    }

    /// Takes in what the probe showed that began then.
    pub(super) fn probed(&self, event: Event, began: Instant) -> Option<Change> {
        // While bytes come, an unanswered probe proves nothing: a burst blocks some engines.
        if event == Event::Miss && self.heard.load(Relaxed) >= self.millis(began) {
            return None;
        }
        let now = Instant::now();
        if matches!(event, Event::Healthy | Event::Busy) {
            self.heard.store(self.millis(now), Relaxed);
        }
        self.tell(event, now)
    }

    /// No probe is under way any more.
    pub(super) fn end_probe(&self) {
        self.probing.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::standing::{FAILURES, TRIAL_AFTER};
    use super::*;

    const IDLE: Option<Duration> = Some(Duration::from_secs(2));

    fn fail(rotation: &Rotation, times: u8) -> Option<Change> {
        (0..times).fold(None, |_, _| answer(rotation, StatusCode::INTERNAL_SERVER_ERROR))
    }

    /// A probe that takes so long, and what it shows.
    async fn probe(rotation: &Rotation, takes: Duration, shows: Event) -> Option<Change> {
        let began = rotation.begin_probe();
        advance(takes).await;
        let change = rotation.probed(shows, began);
        rotation.end_probe();
        change
    }

    /// A probe that shows this at once.
    async fn probe_now(rotation: &Rotation, shows: Event) -> Option<Change> {
        probe(rotation, Duration::ZERO, shows).await
    }

    /// An answer of a server that fails more often than others.
    fn answer(rotation: &Rotation, status: StatusCode) -> Option<Change> {
        rotation.answered(status, Instant::now(), || true)
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_in_a_row_eject() {
        let rotation = Rotation::new();
        assert_eq!(fail(&rotation, FAILURES - 1), None);
        assert_eq!(answer(&rotation, StatusCode::OK), None);
        assert_eq!(fail(&rotation, FAILURES - 1), None);
        assert_eq!(fail(&rotation, 1), Some(Change::Ejected(Out::Failing)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_did_wrong_never_counts_against_a_worker() {
        let rotation = Rotation::new();
        for status in [400, 401, 404, 408, 413, 422, 429, 499, 501, 508] {
            let status = StatusCode::from_u16(status).unwrap();
            for _ in 0..FAILURES * 2 {
                assert_eq!(answer(&rotation, status), None);
            }
        }
        assert_eq!(rotation.out(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_server_gets_one_trial_after_a_wait_that_grows() {
        let rotation = Rotation::new();
        fail(&rotation, FAILURES);
        assert!(!rotation.may_try(Instant::now()), "not at once");
        advance(TRIAL_AFTER).await;
        assert!(rotation.may_try(Instant::now()));
        assert!(!rotation.may_try(Instant::now()), "one trial only");
        assert_eq!(fail(&rotation, 1), None, "it stays out");
        advance(TRIAL_AFTER).await;
        assert!(!rotation.may_try(Instant::now()), "the second wait is longer");
        advance(TRIAL_AFTER).await;
        assert!(rotation.may_try(Instant::now()));
        let restored = answer(&rotation, StatusCode::OK);
        assert_eq!(restored, Some(Change::Restored));
        assert_eq!(fail(&rotation, FAILURES - 1), None, "a clean slate");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_whose_end_is_never_told_does_not_lock_the_server_out() {
        let rotation = Rotation::new();
        fail(&rotation, FAILURES);
        advance(TRIAL_AFTER).await;
        assert!(rotation.may_try(Instant::now()));
        advance(TRIAL_AFTER).await;
        assert!(rotation.may_try(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_as_others_do_is_not_ejected_and_one_that_was_is_back() {
        let rotation = Rotation::new();
        let fail = |stands_out: bool| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            (0..FAILURES).find_map(|_| rotation.answered(status, Instant::now(), || stands_out))
        };
        assert_eq!(fail(false), None);
        assert_eq!(fail(true), Some(Change::Ejected(Out::Failing)));
        assert_eq!(fail(false), Some(Change::Restored));
        assert_eq!(rotation.out(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_server_is_back_after_the_time_that_it_named_and_after_ten_seconds_at_most() {
        let rotation = Rotation::new();
        for (named, pause) in [(2, 2), (10, 10), (3600, 10)] {
            let full = || rotation.full(Duration::from_secs(named), Instant::now());
            assert_eq!(full(), Some(Change::Ejected(Out::Full)));
            assert_eq!(full(), None, "it was full already");
            assert_eq!(answer(&rotation, StatusCode::OK), None, "one that began earlier");
            assert_eq!(probe_now(&rotation, Event::Healthy).await, None);
            advance(Duration::from_secs(pause) - Duration::from_millis(1)).await;
            assert_eq!((rotation.out(), rotation.is_lost()), (Some(Out::Full), false));
            advance(Duration::from_millis(1)).await;
            assert_eq!(rotation.out(), None);
        }
        assert_eq!(rotation.full(Duration::ZERO, Instant::now()), None);
        fail(&rotation, FAILURES - 1);
        rotation.full(Duration::from_secs(1), Instant::now());
        assert_eq!(fail(&rotation, 1), Some(Change::Ejected(Out::Failing)), "one after the other");
        assert_eq!(rotation.full(Duration::from_secs(1), Instant::now()), None);
        assert_eq!(rotation.out(), Some(Out::Failing));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_out_after_three_unanswered_probes_and_back_at_the_first_byte() {
        let rotation = Rotation::new();
        advance(Duration::from_secs(600)).await;
        assert_eq!(rotation.out(), None, "silence alone proves nothing");
        let patience = Duration::from_secs(5);
        for _ in 0..2 {
            assert_eq!(probe(&rotation, patience, Event::Miss).await, None);
        }
        rotation.heard(Instant::now());
        advance(Duration::from_millis(1)).await;
        for _ in 0..2 {
            assert_eq!(probe(&rotation, patience, Event::Miss).await, None);
        }
        let out = probe(&rotation, patience, Event::Miss).await;
        assert_eq!(out, Some(Change::Ejected(Out::Unresponsive)));
        assert!(!rotation.is_lost());
        assert_eq!(probe(&rotation, patience, Event::Miss).await, None);
        rotation.heard(Instant::now());
        assert_eq!((rotation.out(), rotation.take_return()), (None, Some(Change::Restored)));
        assert_eq!(rotation.take_return(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_probe_proves_nothing_where_bytes_came_meanwhile() {
        let rotation = Rotation::new();
        for _ in 0..9 {
            let began = rotation.begin_probe();
            advance(Duration::from_secs(1)).await;
            rotation.heard(Instant::now());
            advance(Duration::from_secs(4)).await;
            assert_eq!(rotation.probed(Event::Miss, began), None);
            rotation.end_probe();
        }
        assert_eq!(rotation.out(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_server_is_out_no_sooner_than_15_s_after_its_last_byte() {
        for (waiting, most) in [(true, 16_100), (false, 17_300)] {
            let rotation = Rotation::new();
            rotation.heard(Instant::now());
            let stopped = Instant::now();
            while rotation.out().is_none() {
                while !rotation.probe_is_due(Instant::now(), waiting, IDLE) {
                    advance(Duration::from_millis(100)).await;
                }
                probe(&rotation, Duration::from_secs(5), Event::Miss).await;
            }
            let took = stopped.elapsed().as_millis();
            assert!((15_000..=most).contains(&took), "{took} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_out_is_asked_often_and_one_that_answers_is_not() {
        let rotation = Rotation::new();
        assert!(!rotation.probe_is_due(Instant::now(), true, IDLE));
        rotation.refused();
        advance(PROBE_OUT).await;
        assert!(rotation.probe_is_due(Instant::now(), false, IDLE));
        let began = rotation.begin_probe();
        advance(PROBE_OUT).await;
        assert!(!rotation.probe_is_due(Instant::now(), false, IDLE), "one is under way");
        assert_eq!(rotation.probed(Event::Healthy, began), Some(Change::Restored));
        rotation.end_probe();
        advance(PROBE_OUT).await;
        assert!(!rotation.probe_is_due(Instant::now(), true, IDLE));
        rotation.lost(Instant::now(), || true);
        assert!(rotation.probe_is_due(Instant::now(), true, IDLE), "a lost connection is a hint");
        assert!(!rotation.probe_is_due(Instant::now(), true, None), "unless it is turned off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_does_not_clear_what_answers_said() {
        let rotation = Rotation::new();
        fail(&rotation, FAILURES);
        for event in [Event::Healthy, Event::Busy] {
            assert_eq!(probe_now(&rotation, event).await, None);
        }
        assert_eq!(rotation.out(), Some(Out::Failing));
        assert_eq!(rotation.refused(), None, "it was out already");
        assert_eq!(rotation.out(), Some(Out::Unreachable));
    }

    #[tokio::test(start_paused = true)]
    async fn another_route_that_answers_does_not_heal_a_broken_health() {
        let rotation = Rotation::new();
        probe_now(&rotation, Event::Broken).await;
        assert_eq!(probe_now(&rotation, Event::Busy).await, None);
        assert_eq!(rotation.out(), Some(Out::Unhealthy));
        rotation.refused();
        assert_eq!(probe_now(&rotation, Event::Busy).await, Some(Change::Restored));
    }
}
