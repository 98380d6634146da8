//! Tests: the server that is chosen, for each mode and each state of the servers.

use std::collections::BTreeMap;

use dynamo_discovery::{Instance, Key, Kind, Kinds, ModelEntry};
use dynamo_namespace::NamespaceScope;
use http::StatusCode;

use super::*;
use crate::fleet::{FAILURES, Fleet};
use crate::placement::Path;
use crate::view::{LiveView, Model};

const CHAT: Kind = Kind::Chat;

/// The servers `h0`, `h1`, … of one model.
fn targets(servers: usize) -> Arc<Targets> {
    let instances = (0..servers)
        .map(|n| {
            let endpoint = "a.backend.generate".parse().unwrap();
            let entry = ModelEntry::new("m", endpoint, Kinds::from(CHAT)).unwrap();
            let entry = entry.with_url(format!("http://h{n}").parse().unwrap());
            Arc::new(Instance::new(Key::from(format!("k{n}")), None, entry))
        })
        .collect();
    let model = Model::new("m".into(), instances, None, 0);
    Fleet::default().targets(&LiveView::of_nothing(NamespaceScope::All), &model, None)
}

fn balancer(mode: RouterMode) -> Balancer {
    Balancer { mode, limit: Arc::new(ConcurrencyLimit::new(None)), panic_threshold: 50 }
}

fn by_key(text: &[u8]) -> Wish<'static> {
    Wish { affinity: Some(AffinityKey::of(text)), ..Wish::default() }
}

fn upstreams(model: &Targets) -> Vec<Arc<Upstream>> {
    model.upstreams(CHAT).cloned().collect()
}

fn url(pick: &Pick) -> &str {
    match pick {
        Pick::Place(place) => place.upstream().url.as_str(),
        Pick::Full => "full",
        Pick::None => "none",
    }
}

fn fail(upstream: &Upstream) {
    for _ in 0..FAILURES {
        upstream.rotation.answered(StatusCode::BAD_GATEWAY, Instant::now(), || true);
    }
    assert_eq!(upstream.rotation.out(), Some(Out::Failing));
}

fn spread(balancer: &Balancer, model: &Targets, requests: usize) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for _ in 0..requests {
        let pick = balancer.pick(model, CHAT, Wish::default(), &[]);
        *spread.entry(url(&pick).to_owned()).or_default() += 1;
    }
    spread
}

#[tokio::test]
async fn round_robin_is_even_also_when_one_is_out() {
    let (model, balancer) = (targets(3), balancer(RouterMode::RoundRobin));
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
    for mode in RouterMode::ALL.iter().copied() {
        let (model, balancer) = (targets(4), balancer(mode));
        assert_eq!(spread(&balancer, &model, 400).len(), 4, "{mode}");
        let servers = upstreams(&model);
        servers[0].rotation.refused();
        for _ in 0..100 {
            let pick = balancer.pick(&model, CHAT, Wish::default(), &servers[1..2]);
            assert!(["http://h2", "http://h3"].contains(&url(&pick)), "{mode}");
        }
        let pick = balancer.pick(&model, CHAT, Wish::default(), &servers);
        assert!(matches!(pick, Pick::None), "{mode}: all were tried");
        assert!(matches!(balancer.pick(&model, Kind::Images, Wish::default(), &[]), Pick::None));
    }
}

#[tokio::test]
async fn the_one_with_fewer_requests_in_flight_is_preferred() {
    for mode in [RouterMode::PowerOfTwo, RouterMode::LeastLoaded, RouterMode::CacheAware] {
        let (model, balancer) = (targets(2), balancer(mode));
        let servers = upstreams(&model);
        let _busy = Place::take(&servers[0], None);
        for _ in 0..20 {
            assert_eq!(
                url(&balancer.pick(&model, CHAT, Wish::default(), &[])),
                "http://h1",
                "{mode}"
            );
        }
    }
}

#[tokio::test]
async fn a_long_prompt_that_waits_for_its_first_content_weighs_as_much_as_many_requests() {
    let (model, balancer) = (targets(2), balancer(RouterMode::LeastLoaded));
    let long = Wish { bytes: 40_000, stream: true, ..Wish::default() };
    let Pick::Place(mut waits) = balancer.pick(&model, CHAT, long, &[]) else { panic!("a place") };
    let busy = waits.upstream().clone();
    let short = |_| match balancer.pick(&model, CHAT, Wish::default(), &[]) {
        Pick::Place(place) => place,
        _ => panic!("a place"),
    };
    let held: Vec<_> = (0..10).map(short).collect();
    assert!(held.iter().all(|one| !Arc::ptr_eq(one.upstream(), &busy)));
    waits.content_came(std::time::Instant::now());
    assert!(Arc::ptr_eq(short(0).upstream(), &busy));
}

#[tokio::test]
async fn a_prompt_goes_where_its_beginning_was_sent_unless_that_one_is_out() {
    let (model, balancer) = (targets(4), balancer(RouterMode::CacheAware));
    let prompt = "a conversation ".repeat(1000);
    let path = |text: &str| Path::of(model.seed(), b"", [text.as_bytes()]);
    let pick = |path: &Path| {
        let prompt = Some(Request { path, session: None });
        url(&balancer.pick(&model, CHAT, Wish { prompt, ..Wish::default() }, &[])).to_owned()
    };
    let home = pick(&path(&prompt[..8000]));
    for end in 9000..9020 {
        assert_eq!(pick(&path(&prompt[..end])), home);
    }
    let servers = upstreams(&model);
    let gone = servers.iter().find(|one| one.url.as_str() == home).unwrap();
    gone.rotation.refused();
    let next = pick(&path(&prompt));
    assert_ne!(next, home);
    assert_eq!(pick(&path(&prompt)), next);
}

#[tokio::test]
async fn affinity_keeps_a_key_at_its_server_while_that_one_has_no_more_than_its_share() {
    let (model, balancer) = (targets(4), balancer(RouterMode::Affinity));
    let key = by_key(b"session");
    let home = url(&balancer.pick(&model, CHAT, key, &[])).to_owned();
    for _ in 0..20 {
        assert_eq!(url(&balancer.pick(&model, CHAT, key, &[])), home);
    }
    // Many requests at once spread over all servers.
    let held: Vec<Pick> = (0..40).map(|_| balancer.pick(&model, CHAT, key, &[])).collect();
    let most = upstreams(&model).iter().map(|one| one.load.in_flight()).max().unwrap();
    assert!((10..=21).contains(&most), "{most} of 40 at one of 4");
    drop(held);
    assert_eq!(url(&balancer.pick(&model, CHAT, key, &[])), home, "and back home");
}

#[tokio::test]
async fn a_server_that_leaves_moves_only_its_own_keys() {
    let (four, balancer) = (targets(4), balancer(RouterMode::Affinity));
    let keys: Vec<_> = (0..200_u32).map(|n| by_key(&n.to_le_bytes())).collect();
    let home = |model: &Targets, key: &Wish<'static>| {
        url(&balancer.pick(model, CHAT, *key, &[])).to_owned()
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
    let (model, balancer) = (targets(4), balancer(RouterMode::RoundRobin));
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
async fn a_full_server_is_left_out_unless_all_are_full() {
    let (model, balancer) = (targets(4), balancer(RouterMode::RoundRobin));
    let servers = upstreams(&model);
    let fill = |upstream: &Upstream| {
        upstream.rotation.full(std::time::Duration::from_secs(5), Instant::now())
    };
    servers[0].rotation.refused();
    fill(&servers[1]);
    fill(&servers[2]);
    assert_eq!(spread(&balancer, &model, 20).into_keys().collect::<Vec<_>>(), ["http://h3"]);
    fill(&servers[3]);
    let spread_over_full = spread(&balancer, &model, 30);
    assert_eq!(spread_over_full.len(), 3, "{spread_over_full:?}");
    assert!(!spread_over_full.contains_key("http://h0"));
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    assert_eq!(spread(&balancer, &model, 30), spread_over_full, "all three are in rotation");
}

#[tokio::test]
async fn a_server_stands_out_only_beside_others_that_fail_less() {
    let model = targets(2);
    let servers = upstreams(&model);
    let fail = |upstream: &Arc<Upstream>| {
        for _ in 0..FAILURES {
            let _place = Place::take(upstream, None);
            let stands_out = || model.stands_out(upstream);
            upstream.rotation.answered(StatusCode::BAD_GATEWAY, Instant::now(), stands_out);
        }
        upstream.rotation.out()
    };
    assert_eq!(fail(&servers[0]), Some(Out::Failing));
    assert_eq!(fail(&servers[1]), None, "the other one fails as well");
    let alone = targets(1);
    assert!(!alone.stands_out(&upstreams(&alone)[0]));
}

#[tokio::test(start_paused = true)]
async fn a_failing_server_gets_its_trial_before_all_others() {
    let (model, balancer) = (targets(4), balancer(RouterMode::RoundRobin));
    let servers = upstreams(&model);
    fail(&servers[3]);
    assert!(!spread(&balancer, &model, 12).contains_key("http://h3"));
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(spread(&balancer, &model, 12).get("http://h3"), Some(&1));
}

#[tokio::test]
async fn a_full_server_is_passed_over_and_when_all_are_the_request_has_to_wait() {
    for mode in RouterMode::ALL.iter().copied() {
        let model = targets(2);
        let limit = ConcurrencyLimit::new(std::num::NonZeroUsize::new(2));
        let balancer = Balancer { limit: limit.into(), ..balancer(mode) };
        let key = by_key(b"k");
        let held: Vec<_> = (0..4).map(|_| balancer.pick(&model, CHAT, key, &[])).collect();
        assert!(held.iter().all(|pick| matches!(pick, Pick::Place(_))), "{mode}");
        assert!(matches!(balancer.pick(&model, CHAT, key, &[]), Pick::Full), "{mode}");
        drop(held);
        assert!(matches!(balancer.pick(&model, CHAT, key, &[]), Pick::Place(_)), "{mode}");
    }
}
