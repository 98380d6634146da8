//! Whether a worker's server is in rotation, and what puts it out and back.
//!
//! Requests tell what they saw, probes tell what they were answered; each look is a few atomic
//! loads, and writes happen only when something changes. Two that tell at once may both win: the
//! next sign of life or failure corrects it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::probe::Finding;
use super::window::Window;

/// How many failures in a row put a server out, if it fails more often than others.
pub(crate) const FAILURES: u32 = 5;
/// How long after a failure a trial waits, and how long at most when trials fail.
const TRIAL_AFTER: Duration = Duration::from_secs(1);
const TRIAL_AFTER_MAX: Duration = Duration::from_secs(30);
/// The longest pause of a server that says that it is full.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A server that has sent nothing for so long, and answers no probe, is unresponsive.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a probe may take. One that is sent as soon as may be ends when the silence is complete.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_millis(3250);
/// How long after the last byte a server with requests waiting is probed, and how often.
const PROBE_WAITING: Duration = Duration::from_millis(750);
/// How often a server that is out is probed. A server that recovers is noticed at most this much
/// later.
const PROBE_OUT: Duration = Duration::from_millis(400);

/// Why a server is out of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Out {
    /// It took no connection.
    Unreachable = 1,
    /// It broke off a probe, or answered that it is broken.
    Unhealthy = 2,
    /// It sends nothing and answers no probe.
    Unresponsive = 3,
    /// Its answers were failures, one after the other, and those of other servers were not.
    Failing = 4,
    /// It answered that it is full, and for how long. It is back when that time is over.
    Full = 5,
}

impl Out {
    pub(crate) const ALL: [Self; 5] =
        [Self::Unreachable, Self::Unhealthy, Self::Unresponsive, Self::Failing, Self::Full];

    /// The place of the reason among all of them.
    pub(super) fn index(self) -> usize {
        self as usize - 1
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unhealthy => "unhealthy",
            Self::Unresponsive => "unresponsive",
            Self::Failing => "failing",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Ejected(Out),
    Restored,
}

/// The standing of one server.
#[derive(Debug)]
pub(crate) struct Rotation {
    began: Instant,
    /// 0 in rotation, else an [`Out`].
    out: AtomicU8,
    /// Failures in a row.
    failures: AtomicU32,
    /// How often it was ejected for failing since its last success.
    ejections: AtomicU32,
    // Milliseconds since `began`, plus 1; 0 means never.
    heard: AtomicU64,
    trial_at: AtomicU64,
    probed: AtomicU64,
    /// Until when it is full.
    full_until: AtomicU64,
    /// It lost a connection, so it is asked at once how it fares.
    suspect: AtomicBool,
    /// Its failures of the last half minute.
    window: Window,
}

impl Rotation {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            out: AtomicU8::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            heard: AtomicU64::new(0),
            trial_at: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            full_until: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            window: Window::default(),
        }
    }

    /// Why it is out, if it is.
    pub(crate) fn out(&self) -> Option<Out> {
        let out = self.out.load(Relaxed);
        if out == 0 {
            return None;
        }
        let reason = Out::ALL.into_iter().find(|reason| *reason as u8 == out);
        if reason == Some(Out::Full) && self.full_until.load(Relaxed) <= self.millis(Instant::now())
        {
            // Another thread may have found another reason meanwhile, which stands.
            let _ = self.out.compare_exchange(out, 0, Relaxed, Relaxed);
            return None;
        }
        reason
    }

    /// Its failures of the last half minute.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    fn millis(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(after + 1).unwrap_or(u64::MAX)
    }

    fn since(&self, stamp: &AtomicU64, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(stamp.load(Relaxed)))
    }

    fn eject(&self, reason: Out) -> Option<Change> {
        let before = self.out.swap(reason as u8, Relaxed);
        (before == 0 || before == Out::Full as u8).then_some(Change::Ejected(reason))
    }

    /// Puts it back, unless it is full: then it said itself for how long.
    fn restore(&self) -> Option<Change> {
        let out = self.out.load(Relaxed);
        let is_out = out != 0 && out != Out::Full as u8;
        (is_out && self.out.swap(0, Relaxed) != 0).then_some(Change::Restored)
    }

    /// Bytes came from it. That is for every frame, so it writes once a millisecond at most.
    pub(crate) fn heard(&self, at: Instant) {
        let at = self.millis(at);
        if self.heard.load(Relaxed) != at {
            self.heard.store(at, Relaxed);
        }
    }

    /// Whether it was found not to be there. That its answers are wrong does not say so.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.out(), Some(Out::Unreachable | Out::Unhealthy | Out::Unresponsive))
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
        if status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::LOOP_DETECTED
        {
            return self.failed(at, stands_out);
        }
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.ejections.load(Relaxed) != 0 {
            self.ejections.store(0, Relaxed);
        }
        self.restore()
    }

    /// It answered a request with 503, and for how long it will be full. That is no failure.
    pub(crate) fn full(&self, pause: Duration, at: Instant) -> Option<Change> {
        self.heard(at);
        if pause.is_zero() {
            return None;
        }
        self.full_until.store(self.millis(at + pause.min(MAX_PAUSE)), Relaxed);
        // A server that is out for another reason stays so.
        let ejected = self.out.compare_exchange(0, Out::Full as u8, Relaxed, Relaxed);
        ejected.is_ok().then_some(Change::Ejected(Out::Full))
    }

    /// A request failed at it, after it was sent.
    fn failed(&self, at: Instant, stands_out: impl FnOnce() -> bool) -> Option<Change> {
        self.window.failed();
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        let out = self.out();
        if out != Some(Out::Failing) && failures < FAILURES {
            return None;
        }
        if !stands_out() {
            // Where all servers fail alike, the requests are at fault.
            return if out == Some(Out::Failing) { self.restore() } else { None };
        }
        let times = self.ejections.fetch_add(1, Relaxed).min(5);
        let wait = (TRIAL_AFTER * 2_u32.pow(times)).min(TRIAL_AFTER_MAX);
        self.trial_at.store(self.millis(at + wait), Relaxed);
        // A server that is out for another reason stays so, until a probe says otherwise.
        let may_eject = matches!(out, None | Some(Out::Failing | Out::Full));
        if may_eject { self.eject(Out::Failing) } else { None }
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
        self.eject(Out::Unreachable)
    }

    /// Whether it may be given one request, to see whether its answers are right again. The one who
    /// is told so must send one.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        if self.out() != Some(Out::Failing) {
            return false;
        }
        let at = self.trial_at.load(Relaxed);
        let next = self.millis(now + TRIAL_AFTER);
        at <= self.millis(now) && self.trial_at.compare_exchange(at, next, Relaxed, Relaxed).is_ok()
    }

    /// Whether it is time to probe it. `idle` is how long one without requests is left alone, if it
    /// is probed at all.
    pub(crate) fn probe_is_due(&self, now: Instant, waiting: bool, idle: Option<Duration>) -> bool {
        let silent = self.since(&self.heard, now);
        let probed = self.since(&self.probed, now);
        let Some(idle) = idle else { return false };
        let due = match self.out() {
            Some(Out::Unreachable | Out::Unhealthy | Out::Unresponsive) => probed >= PROBE_OUT,
            _ if self.suspect.load(Relaxed) => true,
            _ => {
                let interval = if waiting { PROBE_WAITING.min(idle) } else { idle };
                silent >= interval && probed >= interval
            }
        };
        if due {
            self.probed.store(self.millis(now), Relaxed);
            self.suspect.store(false, Relaxed);
        }
        due
    }

    /// A probe ended.
    pub(crate) fn probed(&self, finding: Finding, now: Instant) -> Option<Change> {
        match finding {
            Finding::Answers => {
                self.heard(now);
                // That it answers a probe does not say that its answers are right.
                if self.out() == Some(Out::Failing) { None } else { self.restore() }
            }
            Finding::Refused => self.eject(Out::Unreachable),
            Finding::Broken => self.eject(Out::Unhealthy),
            // While bytes come, an unanswered probe proves nothing: a burst blocks some engines.
            Finding::Silent if self.since(&self.heard, now) >= SILENCE => {
                self.eject(Out::Unresponsive)
            }
            Finding::Silent | Finding::NotAsked => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const IDLE: Option<Duration> = Some(Duration::from_secs(2));

    fn fail(rotation: &Rotation, times: u32) -> Option<Change> {
        (0..times).fold(None, |_, _| answer(rotation, StatusCode::INTERNAL_SERVER_ERROR))
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
            assert_eq!(rotation.probed(Finding::Answers, Instant::now()), None);
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
    async fn silence_alone_proves_nothing() {
        let rotation = Rotation::new();
        advance(SILENCE * 10).await;
        assert_eq!(rotation.out(), None);
        rotation.heard(Instant::now());
        advance(PROBE_TIMEOUT).await;
        assert_eq!(rotation.probed(Finding::Silent, Instant::now()), None, "bytes came meanwhile");
        advance(PROBE_TIMEOUT).await;
        let out = rotation.probed(Finding::Silent, Instant::now());
        assert_eq!(out, Some(Change::Ejected(Out::Unresponsive)));
        assert_eq!(rotation.probed(Finding::Answers, Instant::now()), Some(Change::Restored));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_server_is_out_soon_after_its_last_byte() {
        for (waiting, most) in [(true, 4100), (false, 5300)] {
            let rotation = Rotation::new();
            rotation.heard(Instant::now());
            let stopped = Instant::now();
            while !rotation.probe_is_due(Instant::now(), waiting, IDLE) {
                advance(Duration::from_millis(100)).await;
            }
            advance(PROBE_TIMEOUT).await;
            assert!(rotation.probed(Finding::Silent, Instant::now()).is_some());
            assert!(stopped.elapsed().as_millis() <= most, "{:?}", stopped.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_out_is_asked_often_and_one_that_answers_is_not() {
        let rotation = Rotation::new();
        assert!(!rotation.probe_is_due(Instant::now(), true, IDLE));
        rotation.refused();
        advance(PROBE_OUT).await;
        assert!(rotation.probe_is_due(Instant::now(), false, IDLE));
        assert!(!rotation.probe_is_due(Instant::now(), false, IDLE), "it has just been");
        rotation.probed(Finding::Answers, Instant::now());
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
        assert_eq!(rotation.probed(Finding::Answers, Instant::now()), None);
        assert_eq!(rotation.out(), Some(Out::Failing));
        assert_eq!(rotation.refused(), None, "it was out already");
        assert_eq!(rotation.out(), Some(Out::Unreachable));
    }
}
