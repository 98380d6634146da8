//! Which of a model's servers a request goes to.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use dynamo_discovery::Kind;
use tokio::time::Instant;

use super::load::Slot;
use super::rotation::Out;
use crate::upstream::Upstream;
use crate::view::Model;

/// How a request's server is chosen among those of its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterMode {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// Of two at random, the one with fewer requests in flight ("power of two choices").
    LeastLoaded,
    /// The same for the same session, user or beginning of a prompt, for the sake of its cache:
    /// rendezvous hashing in which no server gets more than four requests and 1.25 times its share
    /// of those in flight. A request that has none of the three goes by least load.
    Affinity,
}

impl RouterMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::Random, Self::LeastLoaded, Self::Affinity];

    /// The name, as in a flag.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastLoaded => "least-loaded",
            Self::Affinity => "affinity",
        }
    }
}

impl fmt::Display for RouterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text is no router mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected round-robin, random, least-loaded or affinity")]
pub struct UnknownRouterMode;

impl FromStr for RouterMode {
    type Err = UnknownRouterMode;

    fn from_str(text: &str) -> Result<Self, UnknownRouterMode> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or(UnknownRouterMode)
    }
}

/// The rules by which servers are chosen.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) mode: RouterMode,
    /// How many requests one server may have in flight.
    pub(crate) limit: Option<NonZeroUsize>,
    /// Below this share of servers in rotation, in percent, failing ones are used all the same.
    pub(crate) panic_threshold: u8,
}

/// What keeps requests together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AffinityKey(u64);

impl AffinityKey {
    /// The same key for the same text, in every process of one build.
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
    Slot(Slot),
    /// Servers that would do have no place at the moment.
    Full,
    /// There is no server that was not tried.
    None,
}

/// Which servers will do: a wider circle is entered only when the narrower one is empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Circle {
    InRotation,
    /// And those whose answers fail: when most are out, the fault is less likely theirs.
    Failing,
    /// And those that do not answer: better than nothing.
    All,
}

impl Circle {
    fn of(upstream: &Upstream) -> Self {
        match upstream.rotation.out() {
            None => Self::InRotation,
            Some(Out::Failing) => Self::Failing,
            Some(Out::Unreachable | Out::Unhealthy | Out::Unresponsive) => Self::All,
        }
    }
}

impl Balancer {
    /// Chooses a server of a model for a kind, but none of those that were tried.
    pub(crate) fn pick(
        &self,
        model: &Model,
        kind: Kind,
        key: Option<AffinityKey>,
        tried: &[Arc<Upstream>],
    ) -> Pick {
        let untried = || {
            model.upstreams(kind).filter(|one| !tried.iter().any(|tried| Arc::ptr_eq(one, tried)))
        };
        let circles =
            untried().map(|one| Circle::of(one)).fold([0_usize; 3], |mut counts, circle| {
                counts[circle as usize] += 1;
                counts
            });
        let all: usize = circles.iter().sum();
        if circles[Circle::Failing as usize] > 0 {
            let now = Instant::now();
            let trial = untried().find(|one| one.rotation.may_try(now));
            if let Some(slot) = trial.and_then(|one| Slot::take(one, self.limit)) {
                return Pick::Slot(slot);
            }
        }
        let circle = match circles {
            [0, 0, 0] => return Pick::None,
            [0, 0, _] => Circle::All,
            [0, ..] => Circle::Failing,
            [sound, ..] if sound * 100 < all * usize::from(self.panic_threshold) => Circle::Failing,
            _ => Circle::InRotation,
        };
        let roomy =
            || untried().filter(|one| Circle::of(one) <= circle && one.load.has_room(self.limit));
        // Others choose at the same time, so a place may be gone when it is taken.
        for _ in 0..all {
            let Some(chosen) = self.choose(model, key, roomy) else { break };
            if let Some(slot) = Slot::take(chosen, self.limit) {
                return Pick::Slot(slot);
            }
        }
        Pick::Full
    }

    fn choose<'a, I: Iterator<Item = &'a Arc<Upstream>>>(
        &self,
        model: &Model,
        key: Option<AffinityKey>,
        among: impl Fn() -> I,
    ) -> Option<&'a Arc<Upstream>> {
        let count = among().count();
        if count < 2 {
            return among().next();
        }
        match (self.mode, key) {
            (RouterMode::RoundRobin, _) => among().nth(model.turn() % count),
            (RouterMode::Random, _) => among().nth(fastrand::usize(..count)),
            (RouterMode::Affinity, Some(key)) => {
                let in_flight: usize = among().map(|one| one.load.in_flight()).sum();
                // 1.25 times an even share, rounded up, with the request to come. A few at once cost
                // an engine less than a cold cache does.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dynamo_discovery::{Instance, Key, Kinds, ModelEntry};
    use http::StatusCode;

    use super::*;
    use crate::upstream::Upstreams;

    const CHAT: Kind = Kind::Chat;

    fn model(servers: usize) -> Model {
        let instances = (0..servers)
            .map(|n| {
                let endpoint = "a.backend.generate".parse().unwrap();
                let entry = ModelEntry::new("m", endpoint, Kinds::from(CHAT)).unwrap();
                let entry = entry.with_url(format!("http://h{n}").parse().unwrap());
                Arc::new(Instance::new(Key::from(format!("k{n}")), None, entry))
            })
            .collect();
        Model::new("m".into(), instances, None, 0, Upstreams::default())
    }

    fn balancer(mode: RouterMode) -> Balancer {
        Balancer { mode, limit: None, panic_threshold: 50 }
    }

    fn upstreams(model: &Model) -> Vec<Arc<Upstream>> {
        model.upstreams(CHAT).cloned().collect()
    }

    fn url(pick: &Pick) -> &str {
        match pick {
            Pick::Slot(slot) => slot.upstream().url.as_str(),
            Pick::Full => "full",
            Pick::None => "none",
        }
    }

    fn fail(upstream: &Upstream) {
        for _ in 0..5 {
            upstream.rotation.answered(StatusCode::BAD_GATEWAY, Instant::now());
        }
        assert_eq!(upstream.rotation.out(), Some(Out::Failing));
    }

    fn spread(balancer: &Balancer, model: &Model, requests: usize) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..requests {
            let pick = balancer.pick(model, CHAT, None, &[]);
            *spread.entry(url(&pick).to_owned()).or_default() += 1;
        }
        spread
    }

    #[tokio::test]
    async fn round_robin_is_even_also_when_one_is_out() {
        let (model, balancer) = (model(3), balancer(RouterMode::RoundRobin));
        assert!(spread(&balancer, &model, 30).values().all(|count| *count == 10));
        upstreams(&model)[1].rotation.refused();
        let spread = spread(&balancer, &model, 30);
        assert_eq!(
            spread.into_iter().collect::<Vec<_>>(),
            [("http://h0".to_owned(), 15), ("http://h2".to_owned(), 15)]
        );
    }

    #[tokio::test]
    async fn every_mode_uses_every_server_and_none_that_is_out_or_was_tried() {
        for mode in RouterMode::ALL {
            let (model, balancer) = (model(4), balancer(mode));
            assert_eq!(spread(&balancer, &model, 400).len(), 4, "{mode}");
            let servers = upstreams(&model);
            servers[0].rotation.refused();
            for _ in 0..100 {
                let pick = balancer.pick(&model, CHAT, None, &servers[1..2]);
                assert!(["http://h2", "http://h3"].contains(&url(&pick)), "{mode}");
            }
            let pick = balancer.pick(&model, CHAT, None, &servers);
            assert!(matches!(pick, Pick::None), "{mode}: all were tried");
            assert!(matches!(balancer.pick(&model, Kind::Images, None, &[]), Pick::None));
        }
    }

    #[tokio::test]
    async fn least_loaded_prefers_the_one_with_fewer_requests_in_flight() {
        let (model, balancer) = (model(2), balancer(RouterMode::LeastLoaded));
        let servers = upstreams(&model);
        let _busy = Slot::take(&servers[0], None);
        for _ in 0..20 {
            assert_eq!(url(&balancer.pick(&model, CHAT, None, &[])), "http://h1");
        }
    }

    #[tokio::test]
    async fn affinity_keeps_a_key_at_its_server_while_that_one_has_no_more_than_its_share() {
        let (model, balancer) = (model(4), balancer(RouterMode::Affinity));
        let key = Some(AffinityKey::of(b"session"));
        let home = url(&balancer.pick(&model, CHAT, key, &[])).to_owned();
        for _ in 0..20 {
            assert_eq!(url(&balancer.pick(&model, CHAT, key, &[])), home);
        }
        // All at once: bounded.
        let held: Vec<Pick> = (0..40).map(|_| balancer.pick(&model, CHAT, key, &[])).collect();
        let most = upstreams(&model).iter().map(|one| one.load.in_flight()).max().unwrap();
        assert!((10..=13).contains(&most), "{most} of 40 at one of 4");
        drop(held);
        assert_eq!(url(&balancer.pick(&model, CHAT, key, &[])), home, "and back home");
    }

    #[tokio::test]
    async fn a_server_that_leaves_moves_only_its_own_keys() {
        let (four, balancer) = (model(4), balancer(RouterMode::Affinity));
        let keys: Vec<_> = (0..200_u32).map(|n| AffinityKey::of(&n.to_le_bytes())).collect();
        let home = |model: &Model, key: &AffinityKey| {
            url(&balancer.pick(model, CHAT, Some(*key), &[])).to_owned()
        };
        let before: Vec<_> = keys.iter().map(|key| home(&four, key)).collect();
        upstreams(&four)[2].rotation.refused();
        for (key, before) in keys.iter().zip(&before) {
            if before != "http://h2" {
                assert_eq!(&home(&four, key), before);
            }
        }
        assert!(before.iter().filter(|home| *home == "http://h2").count() > 20);
    }

    #[tokio::test]
    async fn when_few_are_left_failing_servers_are_used_and_dead_ones_are_not() {
        let (model, balancer) = (model(4), balancer(RouterMode::RoundRobin));
        let servers = upstreams(&model);
        servers[0].rotation.refused();
        fail(&servers[1]);
        assert_eq!(spread(&balancer, &model, 20).len(), 2, "half are in rotation");
        fail(&servers[2]);
        let spread_in_panic = spread(&balancer, &model, 30);
        assert_eq!(spread_in_panic.len(), 3);
        assert!(!spread_in_panic.contains_key("http://h0"));
        fail(&servers[3]);
        assert_eq!(spread(&balancer, &model, 30).len(), 3, "better than nothing");
        for server in &servers {
            server.rotation.refused();
        }
        assert_eq!(spread(&balancer, &model, 40).len(), 4, "better than nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_server_gets_its_trial_before_all_others() {
        let (model, balancer) = (model(4), balancer(RouterMode::RoundRobin));
        let servers = upstreams(&model);
        fail(&servers[3]);
        assert!(!spread(&balancer, &model, 12).contains_key("http://h3"));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(spread(&balancer, &model, 12).get("http://h3"), Some(&1));
    }

    #[tokio::test]
    async fn a_full_server_is_passed_over_and_when_all_are_the_request_has_to_wait() {
        for mode in RouterMode::ALL {
            let model = model(2);
            let balancer = Balancer { limit: NonZeroUsize::new(2), ..balancer(mode) };
            let key = Some(AffinityKey::of(b"k"));
            let held: Vec<_> = (0..4).map(|_| balancer.pick(&model, CHAT, key, &[])).collect();
            assert!(held.iter().all(|pick| matches!(pick, Pick::Slot(_))), "{mode}");
            assert!(matches!(balancer.pick(&model, CHAT, key, &[]), Pick::Full), "{mode}");
            drop(held);
            assert!(matches!(balancer.pick(&model, CHAT, key, &[]), Pick::Slot(_)), "{mode}");
        }
    }

    #[test]
    fn a_mode_is_read_by_its_name_only() {
        for mode in RouterMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for text in ["", "kv", "Random", "round_robin"] {
            assert_eq!(text.parse::<RouterMode>(), Err(UnknownRouterMode), "{text}");
        }
    }
}
