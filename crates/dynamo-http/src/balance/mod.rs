//! Which of a model's servers a request goes to.

mod budget;
mod mode;
mod queue;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

pub(crate) use self::budget::RetryBudget;
pub use self::mode::{RouterMode, UnknownRouterMode};
pub(crate) use self::queue::{Gauges, QueueLimits, Queued};
use crate::fleet::{ConcurrencyLimit, Need, Out, Place, Targets, Upstream};
use crate::placement::{Candidate, Request};

/// The rules by which servers are chosen.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) mode: RouterMode,
    /// How many requests one server may have in flight.
    pub(crate) limit: Arc<ConcurrencyLimit>,
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

/// What a request brings to the choice of its server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// The key of the session, in the mode `affinity`.
    pub(crate) affinity: Option<AffinityKey>,
    /// The prompt and the session, in the mode `cache-aware`.
    pub(crate) prompt: Option<Request<'a>>,
    /// The size of the body.
    pub(crate) bytes: usize,
    /// Whether the answer is to be a stream.
    pub(crate) stream: bool,
}

fn candidate(upstream: &Upstream) -> Candidate<'_> {
    Candidate { server: &upstream.placed, in_flight: upstream.load.in_flight() }
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
    /// Chooses a server of a model that meets a need, among those that were not tried.
    pub(crate) fn pick(
        &self,
        targets: &Targets,
        need: impl Into<Need>,
        wish: Wish<'_>,
        tried: &[Arc<Upstream>],
    ) -> Pick {
        let (need, limit) = (need.into(), self.limit.now());
        let untried = || {
            targets.upstreams(need).filter(|one| !tried.iter().any(|tried| Arc::ptr_eq(one, tried)))
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
            if let Some(mut place) = trial.and_then(|one| Place::take(one, limit)) {
                self.begun(targets, wish, &mut place);
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
        let roomy = || untried().filter(|one| admits(Circle::of(one)) && one.load.has_room(limit));
        // Other requests choose at the same time, so the last place of a server may be gone.
        for _ in 0..all {
            if self.mode == RouterMode::CacheAware
                && let Some(prompt) = wish.prompt
            {
                let among: Vec<_> = roomy().collect();
                if among.is_empty() {
                    break;
                }
                if let Some(place) = self.place(targets, prompt, wish.stream, &among) {
                    return Pick::Place(place);
                }
                continue;
            }
            let Some(chosen) = self.choose(targets, wish.affinity, roomy) else { break };
            if let Some(mut place) = Place::take(chosen, limit) {
                self.begun(targets, wish, &mut place);
                return Pick::Place(place);
            }
        }
        Pick::Full
    }

    /// Takes a place at the server that costs the prompt least, if it still has one.
    fn place(
        &self,
        targets: &Targets,
        prompt: Request<'_>,
        stream: bool,
        among: &[&Arc<Upstream>],
    ) -> Option<Place> {
        let candidates: Vec<_> = among.iter().map(|one| candidate(one)).collect();
        let (knowledge, now) = (targets.knowledge(), std::time::Instant::now());
        let choice = knowledge.choose(prompt, &candidates, now)?;
        let chosen = among[choice.server];
        let mut place = Place::take(chosen, self.limit.now())?;
        debug!(
            model = targets.name(),
            url = %chosen.url,
            reason = choice.reason.name(),
            cost = choice.cost,
            expected_cached_tokens = choice.known_tokens,
            prompt_tokens = choice.tokens,
            candidates = among.len(),
            "placed"
        );
        place.begun(knowledge.begun(prompt, &choice, &chosen.placed, stream, now));
        Some(place)
    }

    /// Notes that a request goes to a server that was found in another way: by a trial, by a turn, or
    /// in the queue.
    pub(crate) fn begun(&self, targets: &Targets, wish: Wish<'_>, place: &mut Place) {
        let (knowledge, now) = (targets.knowledge(), std::time::Instant::now());
        let server = place.upstream().placed.clone();
        let sent = match (self.mode, wish.prompt) {
            (RouterMode::CacheAware, Some(prompt)) => {
                let only = Candidate { server: &server, in_flight: 0 };
                let Some(choice) = knowledge.choose(prompt, &[only], now) else { return };
                knowledge.begun(prompt, &choice, &server, wish.stream, now)
            }
            (RouterMode::CacheAware | RouterMode::LeastLoaded, _) => {
                knowledge.begun_blindly(wish.bytes, &server, wish.stream, now)
            }
            _ => return,
        };
        place.begun(sent);
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
                // Twice an even share of the requests in flight and this one, rounded up. A tighter
                // bound drives sessions away from warm caches. Four requests at once cost an engine
                // less than a cold cache does.
                let most = ((in_flight + 1) * 2).div_ceil(count).max(4);
                among()
                    .filter(|one| one.load.in_flight() < most)
                    .max_by_key(|one| hash(&(key.0, one.url.as_str())))
                    .or_else(|| among().next())
            }
            (RouterMode::LeastLoaded | RouterMode::CacheAware, _) => {
                /// So many are looked at.
                const SAMPLE: usize = 16;
                let (knowledge, now) = (targets.knowledge(), std::time::Instant::now());
                // From a random one on, so that equal ones get requests alike.
                let first = fastrand::usize(..count);
                let sampled = (0..count.min(SAMPLE)).filter_map(|n| {
                    let random = if count > SAMPLE { fastrand::usize(..count) } else { first + n };
                    among().nth(random % count)
                });
                let load = |one: &Arc<Upstream>| knowledge.load(candidate(one), now);
                sampled.min_by(|one, other| load(one).total_cmp(&load(other)))
            }
            (RouterMode::PowerOfTwo | RouterMode::Affinity, _) => {
                let first = fastrand::usize(..count);
                let second = (first + fastrand::usize(1..count)) % count;
                let (one, other) = (among().nth(first)?, among().nth(second)?);
                Some(if other.load.in_flight() < one.load.in_flight() { other } else { one })
            }
        }
    }
}
