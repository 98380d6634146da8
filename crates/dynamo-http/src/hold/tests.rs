//! What is held, and for how long: over a switchboard, with servers that answer as the test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_discovery::ModelUpdate;
use dynamo_discovery::{DiscoveryBatch, Gone, Instance, InstanceId, Key, Kind, Kinds, ModelEntry};
use dynamo_namespace::NamespaceScope;
use futures_util::future::{FutureExt as _, ready};
use tokio::time::{Instant, timeout_at};

use super::ask::MockAsk;
use super::config::Hold;
use super::keeper::{Keeper, TICK};
use super::pace::ASK_AGAIN;
use super::witness::Witness;
use crate::feed::{DiscoveryStatus, Keep as _};
use crate::fleet::{Finding, Fleet, Targets, Upstream};
use crate::view::{RouteChange, Switchboard, SwitchboardWriter};

/// A keeper between updates and a switchboard.
struct Rig {
    keeper: Keeper,
    switchboard: Switchboard,
    writer: SwitchboardWriter,
    servers: Servers,
    changes: Vec<RouteChange>,
    /// The targets of models whose servers the test has used.
    targets: Vec<Arc<Targets>>,
}

/// What servers answer; those that are not here do.
#[derive(Clone, Default)]
struct Servers {
    answers: Arc<Mutex<BTreeMap<String, Finding>>>,
    asked: Arc<Mutex<Vec<Witness>>>,
}

impl Servers {
    fn set(&self, url: &str, finding: Finding) {
        self.answers.lock().unwrap().insert(url.to_owned(), finding);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Rig {
    fn new(hold: Hold) -> Self {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        writer.stage_ready();
        writer.publish();
        let servers = Servers::default();
        let mut ask = MockAsk::new();
        let said = servers.clone();
        ask.expect_ask().returning(move |witness: &Witness| {
            said.asked.lock().unwrap().push(witness.clone());
            let url = match witness {
                Witness::Control(claim) => claim.url.as_str(),
                Witness::Listed(_, url, _) => url.as_str(),
            };
            let answer = said.answers.lock().unwrap().get(url).copied();
            ready(answer.unwrap_or(Finding::Answers)).boxed()
        });
        let keeper = Keeper::new(hold, Fleet::default(), Box::new(ask), DiscoveryStatus::default());
        Self { keeper, switchboard, writer, servers, changes: Vec::new(), targets: Vec::new() }
    }

    fn with(instances: &[&Arc<Instance>]) -> Self {
        let mut rig = Self::new(Hold::default());
        rig.batch(instances.iter().map(|one| added(one)).collect());
        rig.changes.clear();
        rig
    }

    fn batch(&mut self, updates: Vec<ModelUpdate>) {
        self.told(updates, Vec::new());
    }

    fn told(&mut self, updates: Vec<ModelUpdate>, unserved: Vec<Key>) {
        let mut batch = DiscoveryBatch::default();
        (batch.updates, batch.unserved) = (updates, unserved);
        self.keeper.stage(0, &batch, &mut self.writer);
        self.changes.extend(self.writer.publish());
    }

    /// Lets time pass.
    async fn pass(&mut self, span: Duration) {
        let until = Instant::now() + span;
        while timeout_at(until, self.keeper.wait()).await.is_ok() {
            self.keeper.work(&mut self.writer);
            self.changes.extend(self.writer.publish());
        }
    }

    /// The keys that are known: those that are held with a star, those in doubt with a question mark.
    fn serving(&self) -> Vec<String> {
        let view = self.switchboard.view(&NamespaceScope::All);
        let show = |one: &Arc<Instance>| {
            let mark = match one.url() {
                None => "?",
                Some(_) if view.is_held(one) => "*",
                Some(_) => "",
            };
            format!("{}{mark}", one.key().as_str().unwrap())
        };
        view.instances().map(show).collect()
    }

    /// A server that requests have used.
    fn server_of(&mut self, instance: &Instance) -> Arc<Upstream> {
        let live = self.switchboard.live_view(&NamespaceScope::All);
        let model = live.load().model(instance.model()).cloned();
        // It is held, so that the server outlives this look at it.
        self.targets.extend(model.map(|model| self.keeper.fleet.targets(&live, &model, None)));
        self.keeper.fleet.server(instance.endpoint().namespace(), instance.url().unwrap())
    }
}

/// Where the control port of the worker at a URL is.
const CONTROL: &str = ":41234";

fn instance_of(namespace: &str, id: u64, model: &str, url: &str) -> Arc<Instance> {
    let entry = unproven(namespace, id, model, url).entry().clone();
    let entry = entry.with_control(format!("{url}{CONTROL}").parse().unwrap());
    let key = Key::from(format!("{namespace}/{id}/{model}"));
    Arc::new(Instance::new(key, Some(InstanceId(id)), entry))
}

/// An instance whose worker has no control port.
fn unproven(namespace: &str, id: u64, model: &str, url: &str) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new(model, endpoint, Kinds::parse("Chat").kinds).unwrap();
    let key = Key::from(format!("{namespace}/{id}/{model}"));
    Arc::new(Instance::new(key, Some(InstanceId(id)), entry.with_url(url.parse().unwrap())))
}

/// The instance of a number, at a server of its own.
fn instance(id: u64) -> Arc<Instance> {
    instance_of("a", id, "m", &format!("http://h{id}"))
}

fn added(instance: &Arc<Instance>) -> ModelUpdate {
    ModelUpdate::Added(instance.clone())
}

fn vanished(instance: &Arc<Instance>) -> ModelUpdate {
    ModelUpdate::Removed(instance.clone(), Gone::Vanished)
}

const SECOND: Duration = Duration::from_secs(1);
/// A server is asked again within this time: the longest pause, and two looks at what is kept.
const ASKED_AGAIN: Duration = ASK_AGAIN.saturating_mul(2).saturating_add(TICK.saturating_mul(2));

#[tokio::test(start_paused = true)]
async fn what_vanishes_while_its_server_answers_is_held_until_the_time_is_over() {
    let one = instance(1);
    let mut rig = Rig::with(&[&one]);
    rig.batch(vec![vanished(&one)]);
    assert_eq!(rig.serving(), ["a/1/m?"], "it is known, and gets no request until it is proven");
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*"]);
    rig.pass(28 * SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*"]);
    assert!((14..=31).contains(&rig.servers.asked()), "{}", rig.servers.asked());
    assert_eq!(rig.changes, []);
    rig.pass(2 * SECOND).await;
    assert_eq!(rig.serving(), [] as [&str; 0]);
    assert!(!rig.changes.is_empty(), "the route is closed");
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_with_its_server_goes_as_soon_as_that_is_known() {
    for probe in [Finding::Refused, Finding::Broken, Finding::Silent] {
        let one = instance(1);
        let mut rig = Rig::with(&[&one]);
        rig.servers.set("http://h1", probe);
        rig.batch(vec![vanished(&one)]);
        rig.pass(Duration::from_millis(1)).await;
        assert_eq!(rig.serving(), [] as [&str; 0], "{probe:?}");
        assert_eq!(rig.servers.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_instance_goes_with_the_first_failed_probe_and_with_the_first_failed_connection() {
    let (probed, refused) = (instance(1), instance(2));
    let mut rig = Rig::with(&[&probed, &refused]);
    rig.batch(vec![vanished(&probed), vanished(&refused)]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*", "a/2/m*"]);
    rig.server_of(&refused).rotation.refused();
    rig.pass(Duration::from_millis(200)).await;
    assert_eq!(rig.serving(), ["a/1/m*"]);
    rig.servers.set("http://h1", Finding::Refused);
    rig.pass(ASKED_AGAIN).await;
    assert_eq!(rig.serving(), [] as [&str; 0]);
    // One that was out before is not even asked.
    rig.batch(vec![added(&refused)]);
    let asked = rig.servers.asked();
    rig.server_of(&refused).rotation.refused();
    rig.batch(vec![vanished(&refused)]);
    assert_eq!((rig.serving(), rig.servers.asked()), (vec![], asked));
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_server_this_machine_cannot_ask_is_not_let_go() {
    let one = instance(1);
    let mut rig = Rig::with(&[&one]);
    rig.batch(vec![vanished(&one)]);
    rig.pass(SECOND).await;
    rig.servers.set("http://h1", Finding::NotAsked);
    let asked = rig.servers.asked();
    rig.pass(10 * SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*"]);
    assert!(rig.servers.asked() > asked, "it is asked again");
    rig.servers.set("http://h1", Finding::Refused);
    rig.pass(ASKED_AGAIN).await;
    assert_eq!(rig.serving(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn bytes_from_a_server_prove_nothing_since_a_stranger_sends_bytes_as_well() {
    let one = instance(1);
    let mut rig = Rig::with(&[&one]);
    rig.servers.set("http://h1", Finding::Refused);
    rig.server_of(&one).rotation.heard(Instant::now());
    rig.batch(vec![vanished(&one)]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_in_doubt_is_no_target_and_keeps_its_route_open() {
    let one = instance(1);
    let mut rig = Rig::with(&[&one]);
    rig.batch(vec![vanished(&one)]);
    let live = rig.switchboard.live_view(&NamespaceScope::All);
    let targets = |rig: &Rig| {
        let model = live.load().model("m").cloned().unwrap();
        rig.keeper.fleet.targets(&live, &model, None).upstreams(Kind::Chat).count()
    };
    assert_eq!((targets(&rig), live.load().is_open(Kind::Chat)), (0, true));
    rig.pass(SECOND).await;
    assert_eq!(targets(&rig), 1);
    assert_eq!(rig.changes, []);
}

#[tokio::test(start_paused = true)]
async fn without_a_control_port_nothing_is_held_unless_that_is_asked_for() {
    let one = unproven("a", 1, "m", "http://h1");
    for (unproven, expected) in [(false, vec![]), (true, vec!["a/1/m*"])] {
        let mut rig = Rig::new(Hold::new().with_unproven(unproven));
        rig.batch(vec![added(&one)]);
        rig.batch(vec![vanished(&one)]);
        rig.pass(SECOND).await;
        assert_eq!(rig.serving(), expected);
        let mut rig = Rig::new(Hold::new().with_unproven(unproven));
        rig.keeper.remember(0, vec![one.clone()]);
        rig.pass(SECOND).await;
        assert_eq!(rig.serving().len(), expected.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_models_proves_nothing_where_another_worker_names_the_same_address() {
    let (one, sibling) = (unproven("a", 1, "m", "http://h1"), unproven("a", 1, "n", "http://h1"));
    let stranger = unproven("b", 2, "m", "http://h1");
    let hold = || Hold::new().with_unproven(true);
    let mut rig = Rig::new(hold());
    rig.batch(vec![added(&one), added(&sibling)]);
    rig.batch(vec![vanished(&one)]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*", "a/1/n"], "its own worker names the address twice");
    let mut rig = Rig::new(hold());
    rig.batch(vec![added(&one), added(&stranger)]);
    rig.batch(vec![vanished(&one)]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["b/2/m"]);
    let mut rig = Rig::new(hold());
    rig.batch(vec![added(&one)]);
    rig.batch(vec![vanished(&one)]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*"]);
    rig.batch(vec![added(&sibling)]);
    assert_eq!(rig.serving(), ["a/1/m*", "a/1/n"], "the same worker names the address again");
    rig.batch(vec![added(&stranger)]);
    assert_eq!(rig.serving(), ["a/1/n", "b/2/m"], "another worker names it, of another namespace");
    let mut rig = Rig::new(hold());
    rig.keeper.remember(0, vec![one, stranger]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_published_again_serves_on_without_a_change_of_routes() {
    let one = instance(1);
    let restarted = instance_of("a", 7, "m", "http://h1");
    for back in [&one, &restarted] {
        let mut rig = Rig::with(&[&one]);
        let server = rig.server_of(&one);
        rig.batch(vec![vanished(&one)]);
        rig.pass(5 * SECOND).await;
        rig.batch(vec![added(back)]);
        assert_eq!(rig.serving(), [back.key().as_str().unwrap()]);
        assert_eq!(rig.changes, []);
        assert!(Arc::ptr_eq(&server, &rig.server_of(back)), "with its connections");
        let asked = rig.servers.asked();
        rig.pass(60 * SECOND).await;
        assert_eq!(rig.servers.asked(), asked);
        assert_eq!(rig.serving(), [back.key().as_str().unwrap()]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_worker_is_not_held_under_its_old_key() {
    let (old, new) = (instance(1), instance_of("a", 7, "m", "http://h1"));
    let mut rig = Rig::with(&[&old, &new]);
    rig.batch(vec![vanished(&old)]);
    assert_eq!(rig.serving(), ["a/7/m"]);
    // In one batch, in both orders.
    rig.batch(vec![vanished(&new), added(&old)]);
    assert_eq!(rig.serving(), ["a/1/m"]);
    rig.batch(vec![added(&new), vanished(&old)]);
    assert_eq!(rig.serving(), ["a/7/m"]);
    assert_eq!(rig.changes, []);
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_at_the_same_server_takes_nothing_over() {
    let (one, neighbour) = (instance(1), instance_of("b", 2, "m", "http://h1"));
    let mut rig = Rig::with(&[&one]);
    rig.batch(vec![vanished(&one)]);
    rig.batch(vec![added(&neighbour)]);
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m*", "b/2/m"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_withdrawn_refused_or_moved_away_goes_at_once_also_while_it_is_held() {
    let one = instance(1);
    for gone in [Gone::Withdrawn, Gone::Refused, Gone::OutOfScope] {
        let mut rig = Rig::with(&[&one]);
        rig.batch(vec![ModelUpdate::Removed(one.clone(), gone)]);
        assert_eq!((rig.serving(), rig.servers.asked()), (vec![], 0), "{gone:?}");
    }
    let mut rig = Rig::with(&[&one]);
    rig.batch(vec![vanished(&one)]);
    rig.pass(SECOND).await;
    rig.told(Vec::new(), vec![one.key().clone()]);
    assert_eq!(rig.serving(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn flat_entries_and_those_without_a_server_go_at_once() {
    let flat = Arc::new(Instance::new("flat".into(), None, instance(1).entry().clone()));
    let endpoint = "a.backend.generate".parse().unwrap();
    let entry = ModelEntry::new("m", endpoint, Kinds::parse("Chat").kinds).unwrap();
    let without = Arc::new(Instance::new("without".into(), Some(InstanceId(2)), entry));
    let mut rig = Rig::with(&[&flat, &without]);
    rig.batch(vec![vanished(&flat), vanished(&without)]);
    assert_eq!(rig.serving(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_held_than_allowed() {
    let mut rig = Rig::new(Hold::new().with_at_most(3));
    let all: Vec<_> = (0..9).map(instance).collect();
    rig.batch(all.iter().map(added).collect());
    rig.batch(all.iter().map(vanished).collect());
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/0/m*", "a/1/m*", "a/2/m*"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_many_models_is_asked_once() {
    let models: Vec<_> =
        (0..50).map(|n| instance_of("a", 1, &format!("m{n}"), "http://h1")).collect();
    let mut rig = Rig::with(&models.iter().collect::<Vec<_>>());
    rig.batch(models.iter().map(vanished).collect());
    rig.pass(Duration::from_millis(900)).await;
    assert_eq!(rig.servers.asked(), 1);
    assert!(rig.serving().iter().all(|key| key.ends_with('*')));
}

#[tokio::test(start_paused = true)]
async fn a_view_that_opens_later_shows_what_is_held_in_its_scope() {
    let (one, other) = (instance(1), instance_of("b", 2, "m", "http://h2"));
    let mut rig = Rig::with(&[&one, &other]);
    rig.batch(vec![vanished(&one), vanished(&other)]);
    rig.pass(SECOND).await;
    let scope = NamespaceScope::from_target(Some("a")).unwrap();
    let live = rig.writer.open(&scope);
    rig.writer.publish();
    let view = live.load();
    assert!(view.is_held(&one) && !view.is_held(&other));
    assert_eq!(view.instances().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_serves_after_a_probe_and_one_that_is_silent_when_it_answers() {
    let [one, two] = [instance(1), instance(2)];
    let mut rig = Rig::new(Hold::default());
    rig.servers.set("http://h2", Finding::Silent);
    rig.keeper.remember(0, vec![one.clone(), two.clone()]);
    assert_eq!(rig.serving(), [""; 0], "nobody was asked");
    rig.pass(SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m"]);
    assert!(rig.keeper.remembers_enough(0), "both were asked, and one serves");
    rig.servers.set("http://h2", Finding::Answers);
    rig.pass(ASKED_AGAIN).await;
    assert_eq!(rig.serving(), ["a/1/m", "a/2/m"]);
    let asked = rig.servers.asked();
    rig.pass(600 * SECOND).await;
    assert_eq!(rig.serving(), ["a/1/m", "a/2/m"], "for as long as the store is away");
    assert_eq!(rig.servers.asked(), asked, "rotation looks after them");
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_of_the_store_replaces_what_is_remembered_without_closing_a_route() {
    let [stays, moved, gone] = [1, 2, 3].map(instance);
    let moved_to = instance_of("a", 2, "m", "http://h9");
    for hold in [Hold::default(), Hold::new().with_longest(Duration::ZERO)] {
        let mut rig = Rig::new(hold);
        rig.keeper.remember(0, vec![stays.clone(), moved.clone(), gone.clone()]);
        // Another source does not speak for this one.
        let mut other = DiscoveryBatch::default();
        other.resync = true;
        rig.keeper.stage(1, &other, &mut rig.writer);
        rig.pass(SECOND).await;
        assert_eq!(rig.serving(), ["a/1/m", "a/2/m", "a/3/m"]);
        assert_eq!(rig.keeper.remembered(0), 3);
        rig.changes.clear();
        let mut part = DiscoveryBatch::default();
        part.updates = vec![added(&stays)];
        part.more = true;
        rig.keeper.stage(0, &part, &mut rig.writer);
        rig.pass(SECOND).await;
        assert_eq!(rig.serving(), ["a/1/m", "a/2/m", "a/3/m"], "that was not all");
        rig.batch(vec![added(&moved_to)]);
        assert_eq!(rig.serving(), ["a/1/m", "a/2/m"], "what is gone is not held");
        assert_eq!(rig.changes, [], "no route closed");
        assert_eq!((rig.keeper.remembered(0), rig.keeper.remembers_enough(0)), (0, false));
        let view = rig.switchboard.view(&NamespaceScope::All);
        assert!(view.instances().any(|one| **one == *moved_to));
        rig.pass(5 * SECOND).await;
        assert_eq!(rig.serving(), ["a/1/m", "a/2/m"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_answers_for_is_not_enough_to_be_ready_and_never_serves() {
    let mut rig = Rig::new(Hold::default());
    rig.servers.set("http://h1", Finding::Refused);
    rig.servers.set("http://h2", Finding::Broken);
    rig.keeper.remember(0, vec![instance(1), instance(2)]);
    rig.pass(30 * SECOND).await;
    assert_eq!(rig.serving(), [""; 0]);
    assert!(!rig.keeper.remembers_enough(0));
    assert!((30..=62).contains(&rig.servers.asked()), "{}", rig.servers.asked());
}

#[tokio::test(start_paused = true)]
async fn no_more_servers_are_asked_at_one_time_than_for_what_is_held() {
    let mut rig = Rig::new(Hold::default());
    let all: Vec<_> = (0..600).map(instance).collect();
    rig.keeper.remember(0, all);
    assert_eq!(rig.servers.asked(), 256);
    rig.pass(SECOND).await;
    assert_eq!((rig.serving().len(), rig.servers.asked()), (600, 600));
}
