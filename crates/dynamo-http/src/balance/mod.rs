//! Which of a model's servers a request goes to.

mod budget;
mod mode;
mod queue;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hasher as _};
use std::num::NonZeroUsize;
use std::sync::Arc;

use dynamo_discovery::Kind;
use tokio::time::Instant;

pub(crate) use self::budget::RetryBudget;
pub use self::mode::{RouterMode, UnknownRouterMode};
pub(crate) use self::queue::{QueueLimits, Queued};
use crate::fleet::{Out, Place, Targets, Upstream};

/// The rules by which servers are chosen.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) mode: RouterMode,
    /// How many requests one server may have in flight; `None` for any number.
    pub(crate) limit: Option<NonZeroUsize>,
    /// Below this share of servers that do not fail, in percent, failing servers are used as well.
    pub(crate) panic_threshold: u8,
}

/// Requests with the same key go to the same server, as far as affinity allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AffinityKey(u64);

impl AffinityKey {
    /// The key of a text. It is the same in every process of one build.
    pub(crate) fn of(text: &[u8]) -> Self {
        Self(hash(&text))
    }
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The outcome of a choice.
#[derive(Debug)]
pub(crate) enum Pick {
    /// A place at a server.
    Place(Place),
    /// Every server that could be used has as many requests as it may have.
    Full,
    /// Every server was tried, or there is none.
    None,
}

/// How well a server will do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Circle {
    InRotation,
    /// It said that it is full. It is used when no server is in rotation.
    Full,
    /// It sends nothing. It is used when no server is in rotation or full.
    Silent,
    /// Its answers fail. It is used when most servers' answers fail, since the fault is less likely
    /// theirs then, and when there is no better one.
    Failing,
    /// It cannot be reached. It is used when no other server is there.
    Away,
}

impl Circle {
    fn of(upstream: &Upstream) -> Self {
        match upstream.rotation.out() {
            None => Self::InRotation,
            Some(Out::Full) => Self::Full,
            Some(Out::Unresponsive) => Self::Silent,
            Some(Out::Failing) => Self::Failing,
            Some(Out::Unreachable | Out::Unhealthy) => Self::Away,
        }
    }
}

impl Balancer {
    /// Chooses a server of a model for a kind, among those that were not tried.
    pub(crate) fn pick(
        &self,
        targets: &Targets,
        kind: Kind,
        key: Option<AffinityKey>,
        tried: &[Arc<Upstream>],
    ) -> Pick {
        let untried = || {
            targets.upstreams(kind).filter(|one| !tried.iter().any(|tried| Arc::ptr_eq(one, tried)))
        };
        let circles =
            untried().map(|one| Circle::of(one)).fold([0_usize; 5], |mut counts, circle| {
                counts[circle as usize] += 1;
                counts
            });
        let [in_rotation, full, silent, failing, away] = circles;
        let all = in_rotation + full + silent + failing + away;
        if all == 0 {
            return Pick::None;
        }
        if failing > 0 {
            let now = Instant::now();
            let trial = untried().find(|one| one.rotation.may_try(now));
            if let Some(place) = trial.and_then(|one| Place::take(one, self.limit)) {
                return Pick::Place(place);
            }
        }
        let sound = in_rotation + full;
        let is_panic = sound * 100 < all * usize::from(self.panic_threshold);
        let admits = |circle| match circle {
            Circle::InRotation => true,
            Circle::Full => in_rotation == 0,
            Circle::Silent => sound == 0,
            Circle::Failing => sound + silent == 0 || is_panic,
            Circle::Away => sound + silent + failing == 0,
        };
        let roomy =
            || untried().filter(|one| admits(Circle::of(one)) && one.load.has_room(self.limit));
        // Other requests choose at the same time, so the last place of a server may be gone.
        for _ in 0..all {
            let Some(chosen) = self.choose(targets, key, roomy) else { break };
            if let Some(place) = Place::take(chosen, self.limit) {
                return Pick::Place(place);
            }
        }
        Pick::Full
    }

    fn choose<'a, I: Iterator<Item = &'a Arc<Upstream>>>(
        &self,
        targets: &Targets,
        key: Option<AffinityKey>,
        among: impl Fn() -> I,
    ) -> Option<&'a Arc<Upstream>> {
        let count = among().count();
        if count < 2 {
            return among().next();
        }
        match (self.mode, key) {
            (RouterMode::RoundRobin, _) => among().nth(targets.turn() % count),
            (RouterMode::Random, _) => among().nth(fastrand::usize(..count)),
            (RouterMode::Affinity, Some(key)) => {
                let in_flight: usize = among().map(|one| one.load.in_flight()).sum();
                // 1.25 times an even share of the requests in flight and this one, rounded up. Four
                // requests at once cost an engine less than a cold cache does.
                let most = ((in_flight + 1) * 5).div_ceil(count * 4).max(4);
                among()
                    .filter(|one| one.load.in_flight() < most)
                    .max_by_key(|one| hash(&(key.0, one.url.as_str())))
                    .or_else(|| among().next())
            }
            (RouterMode::LeastLoaded | RouterMode::Affinity, _) => {
                let first = fastrand::usize(..count);
                let second = (first + fastrand::usize(1..count)) % count;
                let (one, other) = (among().nth(first)?, among().nth(second)?);
                Some(if other.load.in_flight() < one.load.in_flight() { other } else { one })
            }
        }
    }
}
