//! Which servers there are, for how long, and who shares them.

use std::sync::Arc;

use dynamo_discovery::{Gone, Instance, Key, Kind, Kinds, ModelEntry, ModelUpdate};
use dynamo_namespace::NamespaceScope;

use super::*;
use crate::meter::Metrics;
use crate::view::{LiveView, Switchboard, SwitchboardWriter, update_http_endpoints};

impl Default for Fleet {
    fn default() -> Self {
        let metrics = Arc::new(Metrics::new());
        Self::new(Connector::default(), Tenants::default(), None, metrics)
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
    let targets = fleet.targets(live, live.load().model(model).unwrap());
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
    let targets = || fleet.targets(&live, live.load().model("m").unwrap());
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
    let now = fleet.targets(&live, live.load().model("m").unwrap());
    assert!(Arc::ptr_eq(&now, &fleet.targets(&live, earlier.model("m").unwrap())));
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
        assert_eq!(fleet.out_of_rotation(one), Some(Out::Unreachable));
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
        let targets = fleet.targets(&live, live.load().model("m").unwrap());
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
    let targets = fleet.targets(&live, live.load().model("m").unwrap());
    assert_eq!(targets.upstreams(Kind::Completions).count(), 0);
    assert_eq!(targets.upstreams(CHAT).count(), 2);
}
