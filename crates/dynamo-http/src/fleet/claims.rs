//! The entries that name a server, and what their control ports have said of each.
//!
//! Connections, load and limits belong to a URL. What a control port says belongs to the entry that
//! names that port, so no entry changes what another one is.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dynamo_discovery::{ControlUrl, Instance, InstanceId, WorkerUrl};
use dynamo_namespace::Namespace;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::identity::{ASK_EVERY, Finding, Identity};
use super::known::Known;
use super::load::UNUSED;

/// How many control ports are asked at once for one namespace's entries that are in use.
const ASKED_AT_ONCE: usize = 64;
/// After so long without an answer for an entry, one log line says so.
const UNHEARD: Duration = Duration::from_secs(10);

/// What the entries of one worker claim: that its engine is at a URL, and that its control port says
/// so. The namespace is part of it, so nothing said of a claim is said of another namespace's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Claim {
    pub(crate) namespace: Namespace,
    pub(crate) url: WorkerUrl,
    pub(crate) control: ControlUrl,
    pub(crate) id: InstanceId,
}

impl Claim {
    /// The claim of an instance, if a control port can be asked about it.
    pub(crate) fn of(instance: &Instance) -> Option<Self> {
        Some(Self {
            id: instance.id()?,
            url: instance.url()?.clone(),
            control: instance.entry().control()?.clone(),
            namespace: instance.endpoint().namespace().clone(),
        })
    }
}

/// What the questions of one namespace have to wait for. No namespace waits for another one's, also
/// where it names another's control port.
#[derive(Clone)]
pub(super) struct Lane {
    /// Whose turn it is to ask a control port: one question is under way for each address.
    pub(super) turn: Arc<Mutex<()>>,
    questions: Arc<Semaphore>,
}

/// The lanes of all namespaces.
#[derive(Default)]
pub(super) struct Lanes {
    turns: Known<(Namespace, ControlUrl), Mutex<()>>,
    questions: Known<Namespace, Semaphore>,
}

impl Lanes {
    /// The lane of a claim's questions.
    pub(super) fn of(&self, claim: &Claim) -> Lane {
        let Claim { namespace, control, .. } = claim;
        Lane {
            turn: self.turns.at(&(namespace.clone(), control.clone()), Mutex::default),
            questions: self.questions.at(namespace, || Semaphore::new(ASKED_AT_ONCE)),
        }
    }
}

/// A claim, and what its control port has said of it.
#[derive(derive_more::Debug)]
#[debug("Claimed({claim:?}, {:?})", self.identity())]
pub(crate) struct Claimed {
    pub(super) claim: Claim,
    pub(super) lane: Lane,
    /// A packed [`Identity`].
    identity: AtomicU8,
    began: Instant,
    // Milliseconds since `began`, plus 1; 0 means never.
    asked: AtomicU64,
    answered: AtomicU64,
    /// When it was last denied.
    denied: AtomicU64,
    /// When it was last seen that its model had requests.
    used: AtomicU64,
    /// When the engine behind it started, in unix seconds, as it says; 0 means that it never said so.
    engine_started: AtomicU64,
    /// Whether a question is under way that several may wait for.
    asking: AtomicBool,
    /// Tells those who wait that a question has ended.
    told: Notify,
    /// When it was asked for the first time.
    first_asked: OnceLock<Instant>,
    /// Whether a log line has said that it was never answered.
    warned: AtomicBool,
}

impl Claimed {
    pub(super) fn new(claim: Claim, lane: Lane) -> Self {
        Self {
            claim,
            lane,
            identity: AtomicU8::new(Identity::default().pack()),
            began: Instant::now(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            used: AtomicU64::new(0),
            engine_started: AtomicU64::new(0),
            asking: AtomicBool::new(false),
            told: Notify::new(),
            first_asked: OnceLock::new(),
            warned: AtomicBool::new(false),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::unpack(self.identity.load(Relaxed))
    }

    fn millis(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(after + 1).unwrap_or(u64::MAX)
    }

    fn since(&self, stamp: &AtomicU64, now: Instant) -> Option<Duration> {
        let then = stamp.load(Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.millis(now).saturating_sub(then + 1)))
    }

    /// A question is sent now.
    pub(super) fn ask_begins(&self) {
        let now = Instant::now();
        self.first_asked.get_or_init(|| now);
        self.asked.store(self.millis(now), Relaxed);
    }

    /// Takes in what a question showed, and returns the identity before.
    pub(super) fn take_in(&self, finding: Finding) -> Identity {
        if finding == Finding::Answers {
            self.answered.store(self.millis(Instant::now()), Relaxed);
        }
        // One question is under way at a time, so nobody else writes.
        let before = self.identity();
        let after = before.after(finding);
        if after.is_denied() && !before.is_denied() {
            self.denied.store(self.millis(Instant::now()), Relaxed);
        }
        self.identity.store(after.pack(), Relaxed);
        before
    }

    /// For how long its control port has denied it, if it does.
    pub(super) fn denied_for(&self) -> Option<Duration> {
        self.identity().is_denied().then(|| self.since(&self.denied, Instant::now()))?
    }

    /// Its control port says when the engine started.
    pub(super) fn note_start(&self, unix_seconds: u64) {
        self.engine_started.store(unix_seconds, Relaxed);
    }

    /// When the engine behind it started, in unix seconds, as far as it says so.
    pub(super) fn engine_started(&self) -> Option<u64> {
        Some(self.engine_started.load(Relaxed)).filter(|started| *started > 0)
    }

    /// Its model has had requests. That is noted for each model of each namespace: requests of one
    /// namespace to a URL are none of those who name the same URL in another one.
    pub(super) fn note_use(&self, now: Instant) {
        self.used.store(self.millis(now), Relaxed);
    }

    /// A question that others may wait for, if it is time to ask: while the entry is in use, and for
    /// as long as it is denied.
    pub(super) fn begin_if_due(
        self: &Arc<Self>,
        now: Instant,
    ) -> Option<(Asking, OwnedSemaphorePermit)> {
        let identity = self.identity();
        let is_used = || self.since(&self.used, now).is_some_and(|since| since < UNUSED);
        let pause = identity.ask_again_after();
        let is_due = !self.asking.load(Relaxed)
            && self.since(&self.asked, now).is_none_or(|since| since >= pause)
            && (identity.is_denied() || is_used());
        if !is_due {
            return None;
        }
        let permit = self.lane.questions.clone().try_acquire_owned().ok()?;
        Some((self.begin()?, permit))
    }

    /// Whether nobody has asked about it yet.
    pub(super) fn was_never_asked(&self) -> bool {
        self.first_asked.get().is_none()
    }

    /// Whether a prompt on a new connection waits for the next answer.
    pub(super) fn is_in_question(&self, now: Instant) -> bool {
        self.identity().is_confirmed()
            && self.since(&self.answered, now).is_none_or(|since| since >= ASK_EVERY)
    }

    /// Whether a log line is to say that the control port has never answered for it; once.
    pub(super) fn is_news_that_it_is_unheard(&self, now: Instant) -> bool {
        self.identity() == Identity::Unheard
            && self.first_asked.get().is_some_and(|first| now - *first >= UNHEARD)
            && !self.warned.swap(true, Relaxed)
    }

    /// A question that others may wait for, unless one is under way.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Asking> {
        (!self.asking.swap(true, Relaxed)).then(|| Asking(self.clone()))
    }

    /// The end of the question that is under way, or of the next one.
    pub(super) fn told(&self) -> tokio::sync::futures::Notified<'_> {
        self.told.notified()
    }
}

/// A question that others may wait for. They are told when it is dropped.
pub(super) struct Asking(pub(super) Arc<Claimed>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.store(false, Relaxed);
        self.0.told.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
