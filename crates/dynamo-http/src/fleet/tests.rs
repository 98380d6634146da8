//! Which servers there are, for how long, and who shares them.

use std::sync::Arc;

use dynamo_discovery::{Gone, Instance, InstanceId, Key, Kind, Kinds, ModelEntry, ModelUpdate};
use dynamo_namespace::NamespaceScope;
use proptest::prelude::*;
use proptest::sample::select;

use super::standing::Event;
use super::*;
use crate::meter::Metrics;
use crate::placement::{Limits, Placement};
use crate::view::{LiveView, Switchboard, SwitchboardWriter, update_http_endpoints};

impl Default for Fleet {
    fn default() -> Self {
        let metrics = Arc::new(Metrics::new());
        let placement = Placement::new(Limits::default());
        Self::new(Connector::default(), Tenants::default(), None, metrics, placement)
    }
}

impl Fleet {
    /// The server of an instance, if it is in use.
    fn find(&self, instance: &Instance) -> Option<Arc<Upstream>> {
        self.0.tenants.servers_of(instance.endpoint().namespace()).find(instance.url().unwrap())
    }
}

const CHAT: Kind = Kind::Chat;

fn instance(namespace: &str, server: u8, model: &str) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new(model, endpoint, Kinds::from(CHAT)).unwrap();
    let key = Key::from(format!("models/{namespace}/backend/generate/{server}/{model}"));
    let url = format!("http://h{server}").parse().unwrap();
    Arc::new(Instance::new(key, None, entry.with_url(url)))
}

fn added(instance: &Arc<Instance>) -> ModelUpdate {
    ModelUpdate::Added(instance.clone())
}

fn removed(instance: &Arc<Instance>) -> ModelUpdate {
    ModelUpdate::Removed(instance.clone(), Gone::Vanished)
}

/// A switchboard with a view of everything.
fn switchboard() -> (LiveView, SwitchboardWriter) {
    let (switchboard, writer) = Switchboard::new([NamespaceScope::All]);
    (switchboard.live_view(&NamespaceScope::All), writer)
}

/// The first server of a model, as a request finds it.
fn server(fleet: &Fleet, live: &LiveView, model: &str) -> Arc<Upstream> {
    let targets = fleet.targets(live, live.load().model(model).unwrap(), None);
    targets.upstreams(CHAT).next().unwrap().clone()
}

#[test]
fn servers_are_made_for_the_first_request_and_stay_for_as_long_as_a_model_points_at_them() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let (one, two) = (instance("a", 1, "m"), instance("a", 2, "m"));
    let is_used = || fleet.find(&one).is_some();
    update_http_endpoints(&mut writer, &[added(&one)]);
    assert!(!is_used(), "no request has asked for it");
    let first = Arc::downgrade(&server(&fleet, &live, "m"));
    assert!(is_used());
    // Another instance, then another model in the place of this one.
    update_http_endpoints(&mut writer, &[added(&two)]);
    assert!(first.ptr_eq(&Arc::downgrade(&server(&fleet, &live, "m"))));
    let renamed = instance("a", 1, "n");
    update_http_endpoints(&mut writer, &[removed(&one), removed(&two), added(&renamed)]);
    assert!(first.ptr_eq(&Arc::downgrade(&server(&fleet, &live, "n"))));
    fleet.renew_all();
    assert!(is_used(), "the other model points at it");
    update_http_endpoints(&mut writer, &[removed(&renamed)]);
    fleet.renew_all();
    assert!(!is_used() && first.upgrade().is_none());
    assert_eq!(fleet.0.models.load().len(), 0);
}

#[test]
fn a_server_that_has_left_is_forgotten_although_no_request_comes() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let (one, two) = (instance("a", 1, "m"), instance("a", 2, "m"));
    update_http_endpoints(&mut writer, &[added(&one), added(&two)]);
    let left = Arc::downgrade(&server(&fleet, &live, "m"));
    update_http_endpoints(&mut writer, &[removed(&one)]);
    fleet.renew_all();
    assert!(left.upgrade().is_none());
    assert!(fleet.find(&two).is_some());
}

#[test]
fn a_models_turns_and_counts_outlive_its_instances_and_not_the_model() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let targets = || fleet.targets(&live, live.load().model("m").unwrap(), None);
    let (one, two) = (instance("a", 1, "m"), instance("a", 2, "m"));
    update_http_endpoints(&mut writer, &[added(&one)]);
    let before = targets();
    assert!(Arc::ptr_eq(&before, &targets()), "nothing has changed");
    update_http_endpoints(&mut writer, &[added(&two)]);
    assert!(!Arc::ptr_eq(&before, &targets()));
    assert!(Arc::ptr_eq(before.lasting(), targets().lasting()));
    update_http_endpoints(&mut writer, &[removed(&one), removed(&two)]);
    update_http_endpoints(&mut writer, &[added(&two)]);
    assert!(!Arc::ptr_eq(before.lasting(), targets().lasting()));
}

#[test]
fn a_request_that_looked_earlier_does_not_bring_back_what_has_left() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let (one, two) = (instance("a", 1, "m"), instance("a", 2, "m"));
    update_http_endpoints(&mut writer, &[added(&one), added(&two)]);
    let earlier = live.load();
    update_http_endpoints(&mut writer, &[removed(&one)]);
    let now = fleet.targets(&live, live.load().model("m").unwrap(), None);
    assert!(Arc::ptr_eq(&now, &fleet.targets(&live, earlier.model("m").unwrap(), None)));
}

#[test]
fn a_server_that_one_view_finds_out_of_rotation_is_shown_so_in_all() {
    let a = NamespaceScope::Only("a".parse().unwrap());
    let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All, a.clone()]);
    let (used, other) = (instance("a", 1, "m"), instance("a", 1, "n"));
    update_http_endpoints(&mut writer, &[added(&used), added(&other)]);
    let fleet = Fleet::default();
    server(&fleet, &switchboard.live_view(&a), "m").rotation.refused();
    for one in [&used, &other] {
        assert_eq!(fleet.out_of_rotation(one).unwrap().reason, "unreachable");
    }
}

#[test]
fn views_share_servers_and_never_targets() {
    let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
    let (one, two) = (instance("a", 1, "m"), instance("b", 2, "m"));
    update_http_endpoints(&mut writer, &[added(&one), added(&two)]);
    let fleet = Fleet::default();
    for (namespace, url) in [("a", "http://h1"), ("b", "http://h2"), ("a", "http://h1")] {
        let live = switchboard.live_view(&scope(namespace));
        let targets = fleet.targets(&live, live.load().model("m").unwrap(), None);
        let urls: Vec<_> = targets.upstreams(CHAT).map(|one| one.url.to_string()).collect();
        assert_eq!(urls, [url], "the model of {namespace}");
    }
}

#[test]
fn two_fleets_over_one_switchboard_share_nothing() {
    let (live, mut writer) = switchboard();
    let one = instance("a", 1, "m");
    update_http_endpoints(&mut writer, &[added(&one)]);
    let (this, other) = (Fleet::default(), Fleet::default());
    let used = server(&this, &live, "m");
    let _place = Place::take(&used, None);
    used.rotation.refused();
    let same = server(&other, &live, "m");
    assert!(!Arc::ptr_eq(&used, &same));
    assert_eq!((same.load.in_flight(), other.out_of_rotation(&one)), (0, None));
}

#[test]
fn entries_with_one_url_are_one_server() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let all = [instance("a", 1, "m"), instance("a", 2, "m"), instance("b", 1, "m")];
    update_http_endpoints(&mut writer, &all.each_ref().map(added));
    let targets = fleet.targets(&live, live.load().model("m").unwrap(), None);
    assert_eq!(targets.upstreams(Kind::Completions).count(), 0);
    assert_eq!(targets.upstreams(CHAT).count(), 2);
}

/// An instance of a worker with a control port, at the one server of these tests.
fn with_control(namespace: &str, worker: u64) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new("m", endpoint, Kinds::from(CHAT)).unwrap();
    let entry = entry
        .with_url("http://h".parse().unwrap())
        // One address for all: what is said of one of them is said of no other one.
        .with_control("http://h:9001".parse().unwrap());
    let key = Key::from(format!("models/{namespace}/backend/generate/{worker}/m"));
    Arc::new(Instance::new(key, Some(InstanceId(worker)), entry))
}

/// What happens to a server, or to one of the entries that name it.
#[derive(Clone, Debug)]
enum Happens {
    Refused,
    Answered(u16),
    Probed(Event),
    Asked(usize, Finding),
}

fn anything() -> impl Strategy<Value = Happens> {
    let findings = [
        Finding::Answers,
        Finding::Withdrawn,
        Finding::Refused,
        Finding::Broken,
        Finding::Silent,
        Finding::NotAsked,
    ];
    let events = [Event::Healthy, Event::Busy, Event::Broken, Event::Refused, Event::Miss];
    let asked = (0..4_usize, select(findings.to_vec()));
    prop_oneof![
        Just(Happens::Refused),
        select(vec![200_u16, 404, 500]).prop_map(Happens::Answered),
        select(events.to_vec()).prop_map(Happens::Probed),
        asked.clone().prop_map(|(entry, finding)| Happens::Asked(entry, finding)),
        asked.prop_map(|(entry, finding)| Happens::Asked(entry, finding)),
    ]
}

proptest! {
    #[test]
    fn a_report_on_one_entry_changes_no_other_entry_no_other_namespace_and_not_the_server(
        history in proptest::collection::vec(anything(), 0..60),
    ) {
        let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
        let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
        let fleet = Fleet::default();
        // Two workers of each namespace; the ids are the same in both.
        let instances = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
            .map(|(namespace, worker)| with_control(namespace, worker));
        update_http_endpoints(&mut writer, &instances.each_ref().map(added));
        let views = ["a", "b"].map(|name| switchboard.live_view(&scope(name)));
        let targets = views.each_ref().map(|live| fleet.targets(live, live.load().model("m").unwrap(), None));
        let server = fleet.server(instances[0].endpoint().namespace(), instances[0].url().unwrap());
        let claims = instances.each_ref().map(|one| fleet.claimed(&Claim::of(one).unwrap()));
        let identities = || claims.each_ref().map(|claimed| claimed.identity());
        for happens in history {
            let (before, out) = (identities(), server.rotation.out());
            match &happens {
                Happens::Refused => drop(server.rotation.refused()),
                Happens::Answered(status) => {
                    let status = http::StatusCode::from_u16(*status).unwrap();
                    server.rotation.answered(status, tokio::time::Instant::now(), || true);
                }
                Happens::Probed(event) => {
                    let began = server.rotation.begin_probe();
                    server.rotation.probed(*event, began);
                    server.rotation.end_probe();
                }
                Happens::Asked(entry, finding) => drop(claims[*entry].take_in(*finding)),
            }
            let asked = match happens {
                Happens::Asked(entry, _) => {
                    prop_assert_eq!(server.rotation.out(), out, "{:?} changed the server", happens);
                    Some(entry)
                }
                _ => None,
            };
            for (entry, (before, now)) in before.into_iter().zip(identities()).enumerate() {
                prop_assert!(asked == Some(entry) || before == now, "{:?} changed entry {}", happens, entry);
            }
            // A URL is a target in a namespace while one of its entries names it that is not denied.
            let denied = identities().map(Identity::is_denied);
            for (namespace, targets) in targets.iter().enumerate() {
                let expected = !(denied[2 * namespace] && denied[2 * namespace + 1]);
                prop_assert_eq!(targets.upstreams(CHAT).count(), usize::from(expected));
                prop_assert_eq!(targets.has(&server, CHAT), expected);
            }
        }
    }
}

#[test]
fn what_a_control_port_has_said_outlives_a_change_of_the_models_servers() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let one = with_control("a", 1);
    update_http_endpoints(&mut writer, &[added(&one)]);
    let claimed = || fleet.claimed(&Claim::of(&one).unwrap());
    let _targets = fleet.targets(&live, live.load().model("m").unwrap(), None);
    claimed().take_in(Finding::Answers);
    claimed().take_in(Finding::Refused);
    assert_eq!(fleet.out_of_rotation(&one).unwrap().reason, "gone");
    update_http_endpoints(&mut writer, &[added(&instance("a", 2, "m"))]);
    let targets = fleet.targets(&live, live.load().model("m").unwrap(), None);
    let urls: Vec<_> = targets.upstreams(CHAT).map(|one| one.url.to_string()).collect();
    assert_eq!(urls, ["http://h2"]);
}

#[test]
fn a_kind_goes_with_the_entry_that_has_it() {
    let (fleet, (live, mut writer)) = (Fleet::default(), switchboard());
    let (chat, other) = (with_control("a", 1), with_control("a", 2));
    let entry = ModelEntry::new("m", other.endpoint().clone(), Kinds::from(Kind::Completions))
        .unwrap()
        .with_url(other.url().unwrap().clone());
    let other = Arc::new(Instance::new(other.key().clone(), other.id(), entry));
    update_http_endpoints(&mut writer, &[added(&chat), added(&other)]);
    let targets = fleet.targets(&live, live.load().model("m").unwrap(), None);
    let claimed = fleet.claimed(&Claim::of(&chat).unwrap());
    claimed.take_in(Finding::Answers);
    claimed.take_in(Finding::Refused);
    assert_eq!(targets.upstreams(CHAT).count(), 0);
    assert_eq!(targets.upstreams(Kind::Completions).count(), 1);
}

#[tokio::test]
async fn the_first_prompt_on_a_new_connection_asks_a_control_port_that_was_never_asked() {
    let scope = NamespaceScope::Only("a".parse().unwrap());
    let (switchboard, mut writer) = Switchboard::new([scope.clone()]);
    let fleet = Fleet::default();
    let instance = with_control("a", 1);
    update_http_endpoints(&mut writer, &[added(&instance)]);
    let live = switchboard.live_view(&scope);
    let targets = fleet.targets(&live, live.load().model("m").unwrap(), None);
    let server = fleet.server(instance.endpoint().namespace(), instance.url().unwrap());
    let claimed = fleet.claimed(&Claim::of(&instance).unwrap());
    assert!(fleet.confirm(&targets, &server, Kind::Chat).await, "no answer is waited for");
    assert!(claimed.begin().is_none(), "a question is under way");
}
