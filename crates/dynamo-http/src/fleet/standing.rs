//! What a server is, as its own address has shown it, and what follows from that: pure.
//!
//! Requests and probes tell what they saw as an [`Event`]. A worker's word about its engine is no
//! event here: it belongs to the worker's entry ([`Identity`](super::identity::Identity)), so it
//! never clears what the server's own address has shown.

use std::fmt;
use std::time::Duration;

/// How many failures in a row put a server out, if it fails more often than others.
pub(crate) const FAILURES: u8 = 5;
/// How many probes in a row that no route has answered put a server out.
const MISSES: u8 = 3;
/// How long after a failure a trial waits, and how long at most when trials fail.
pub(super) const TRIAL_AFTER: Duration = Duration::from_secs(1);
const TRIAL_AFTER_MAX: Duration = Duration::from_secs(30);
/// After so many doublings the wait for a trial has its longest.
const DOUBLINGS: u8 = 5;
/// The longest pause of a server that says that it is full.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// What a request or a probe saw of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A byte came from it.
    Byte,
    /// It answered a request, and the answer is no fault of the server.
    Served,
    /// It answered a request with a failure, or broke the connection after the request was sent.
    /// `stands_out` says whether it fails more often than the other servers of the model.
    Failed { stands_out: bool },
    /// It answered that it is full for so long.
    Full(Duration),
    /// It took no connection.
    Refused,
    /// It broke a probe off, or answered that it is broken or not ready (5xx).
    Broken,
    /// It answered a probe of its health.
    Healthy,
    /// It answered another route, while its health did not.
    Busy,
    /// No route answered a probe, and no byte came meanwhile.
    Miss,
}

/// Why a server is out of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// It took no connection.
    Unreachable,
    /// It broke off a probe, or answered that it is broken.
    Unhealthy,
    /// It sends nothing, and no route of it answers.
    Unresponsive,
    /// Its answers were failures, one after the other, and those of other servers were not.
    Failing,
    /// It answered that it is full, and for how long. It is back when that time is over.
    Full,
}

impl Out {
    pub(super) const ALL: [Self; 5] =
        [Self::Unreachable, Self::Unhealthy, Self::Unresponsive, Self::Failing, Self::Full];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unhealthy => "unhealthy",
            Self::Unresponsive => "unresponsive",
            Self::Failing => "failing",
            Self::Full => "full",
        }
    }

    /// Whether the server was found not to be there. Silence does not say so, and neither do wrong
    /// answers.
    pub(super) fn is_lost(self) -> bool {
        matches!(self, Self::Unreachable | Self::Unhealthy)
    }
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Ejected(Out),
    Restored,
}

impl Change {
    /// A server that is out for another reason than before is no news, unless it was full: that one
    /// had named its own return.
    fn between(before: Option<Out>, after: Option<Out>) -> Option<Self> {
        match (before, after) {
            (None, Some(reason)) => Some(Self::Ejected(reason)),
            (Some(Out::Full), Some(reason)) if reason != Out::Full => Some(Self::Ejected(reason)),
            (None | Some(Out::Full), None) | (Some(_), Some(_)) => None,
            (Some(_), None) => Some(Self::Restored),
        }
    }
}

/// What a server is. Times are counted from a moment that its keeper chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    conduct: Conduct,
    /// Failures in a row, up to [`FAILURES`].
    failures: u8,
    /// How often it was ejected for failing since its last success, up to [`DOUBLINGS`].
    ejections: u8,
    /// Probes in a row that no route has answered, up to [`MISSES`].
    misses: u8,
}

/// How a server behaves towards those who reach it, or that nobody does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Conduct {
    #[default]
    Sound,
    Full {
        until: Duration,
    },
    Failing {
        trial_at: Duration,
    },
    Refused,
    Broken,
}

impl Standing {
    /// The standing after an event at `now`.
    #[must_use]
    pub(super) fn after(self, event: Event, now: Duration) -> Self {
        match event {
            Event::Byte => Self { misses: 0, ..self },
            Event::Served => {
                Self { conduct: self.conduct.unless_full(Conduct::Sound), ..Self::default() }
            }
            Event::Failed { stands_out } => self.failed(stands_out, now),
            Event::Full(pause) if pause.is_zero() => Self { misses: 0, ..self },
            Event::Full(pause) => {
                let until = now + pause.min(MAX_PAUSE);
                let conduct = match self.conduct {
                    Conduct::Sound | Conduct::Full { .. } => Conduct::Full { until },
                    other => other,
                };
                Self { conduct, misses: 0, ..self }
            }
            Event::Refused => Self { conduct: Conduct::Refused, misses: 0, ..self },
            Event::Broken => Self { conduct: Conduct::Broken, misses: 0, ..self },
            Event::Healthy => {
                let conduct = match self.conduct {
                    // That it answers a probe does not say that its answers are right.
                    failing @ Conduct::Failing { .. } => failing,
                    other => other.unless_full(Conduct::Sound),
                };
                Self { conduct, misses: 0, ..self }
            }
            Event::Busy => {
                // It takes connections. That its health was broken is not refuted.
                let conduct = match self.conduct {
                    Conduct::Refused => Conduct::Sound,
                    other => other,
                };
                Self { conduct, misses: 0, ..self }
            }
            Event::Miss => Self { misses: (self.misses + 1).min(MISSES), ..self },
        }
    }

    fn failed(self, stands_out: bool, now: Duration) -> Self {
        let failures = (self.failures + 1).min(FAILURES);
        let counted = Self { failures, ..self };
        match self.conduct {
            // It stays out until a probe says otherwise.
            Conduct::Refused | Conduct::Broken => counted,
            Conduct::Failing { .. } if !stands_out => {
                // Where all servers fail alike, the requests are at fault.
                Self { conduct: Conduct::Sound, ..counted }
            }
            Conduct::Sound | Conduct::Full { .. } if failures < FAILURES || !stands_out => counted,
            Conduct::Sound | Conduct::Full { .. } | Conduct::Failing { .. } => {
                let wait = TRIAL_AFTER * 2_u32.pow(self.ejections.into());
                let trial_at = now + wait.min(TRIAL_AFTER_MAX);
                let ejections = (self.ejections + 1).min(DOUBLINGS);
                Self { conduct: Conduct::Failing { trial_at }, ejections, ..counted }
            }
        }
    }

    /// Whether the next failure can put the server out or back, so that it matters whether it stands
    /// out.
    pub(super) fn is_on_the_brink(self) -> bool {
        match self.conduct {
            Conduct::Sound | Conduct::Full { .. } => self.failures + 1 >= FAILURES,
            Conduct::Failing { .. } => true,
            Conduct::Refused | Conduct::Broken => false,
        }
    }

    /// The standing after a trial has begun, if the server may be given one request to see whether
    /// its answers are right again.
    pub(super) fn tried(self, now: Duration) -> Option<Self> {
        match self.conduct {
            Conduct::Failing { trial_at } if trial_at <= now => {
                let conduct = Conduct::Failing { trial_at: now + TRIAL_AFTER };
                Some(Self { conduct, ..self })
            }
            _ => None,
        }
    }

    /// Why the server is out of rotation, if it is. `now` is asked for only where it matters.
    pub(super) fn out(self, now: impl FnOnce() -> Duration) -> Option<Out> {
        match self.conduct {
            Conduct::Refused => Some(Out::Unreachable),
            Conduct::Broken => Some(Out::Unhealthy),
            _ if self.misses == MISSES => Some(Out::Unresponsive),
            Conduct::Failing { .. } => Some(Out::Failing),
            Conduct::Full { until } if until > now() => Some(Out::Full),
            Conduct::Full { .. } | Conduct::Sound => None,
        }
    }

    /// What an event that led from `before` to `self` has changed.
    pub(super) fn change_since(self, before: Self, now: Duration) -> Option<Change> {
        Change::between(before.out(|| now), self.out(|| now))
    }

    /// Whether probes went unanswered, so that a byte changes the standing.
    pub(super) fn is_missed(self) -> bool {
        self.misses > 0
    }

    /// All of it in one number, with times to the millisecond.
    pub(super) fn pack(self) -> u64 {
        let (conduct, time) = match self.conduct {
            Conduct::Sound => (0, Duration::ZERO),
            Conduct::Full { until } => (1, until),
            Conduct::Failing { trial_at } => (2, trial_at),
            Conduct::Refused => (3, Duration::ZERO),
            Conduct::Broken => (4, Duration::ZERO),
        };
        let counts = [self.failures, self.ejections, self.misses];
        let counts = counts.into_iter().fold(0, |packed, count| packed << 3 | u64::from(count));
        // 52 bits of milliseconds are longer than any process runs.
        (time.as_millis() as u64) << 12 | counts << 3 | conduct
    }

    /// What [`pack`](Self::pack) has packed.
    pub(super) fn unpack(packed: u64) -> Self {
        let time = Duration::from_millis(packed >> 12);
        let count = |at: u32| (packed >> at & 7) as u8;
        let conduct = match packed & 7 {
            1 => Conduct::Full { until: time },
            2 => Conduct::Failing { trial_at: time },
            3 => Conduct::Refused,
            4 => Conduct::Broken,
            _ => Conduct::Sound,
        };
        Self { conduct, failures: count(9), ejections: count(6), misses: count(3) }
    }
}

impl Conduct {
    /// The other one, unless the server is full: then it said itself for how long.
    fn unless_full(self, other: Self) -> Self {
        if matches!(self, Self::Full { .. }) { self } else { other }
    }
}

#[cfg(test)]
mod tests;
