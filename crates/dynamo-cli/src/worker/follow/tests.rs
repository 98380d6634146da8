//! Following an engine whose answers are scripted, in paused time.

use std::sync::{Arc, Mutex};

use dynamo_discovery::EngineState;
use tokio::time::{advance, timeout};

use super::*;
use crate::engine::{ListedModel, Load};
use crate::settings::static_worker::default_kinds;

/// An engine whose answers are set from outside.
#[derive(Clone)]
struct Fake(Arc<Mutex<Answers>>);

struct Answers {
    probe: Probe,
    models: Result<Vec<ListedModel>, String>,
    /// What is listed once, before the models above are again.
    one_odd_list: Option<Vec<ListedModel>>,
    load: Option<Load>,
    /// How often the load was asked for.
    asked_load: usize,
}

fn listed(name: &str) -> ListedModel {
    let is_adapter = name.ends_with("-lora");
    let accepts = Default::default();
    ListedModel { name: name.into(), context_length: None, is_adapter, accepts }
}

impl Fake {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Answers {
            probe: Probe::Loading,
            models: Ok(vec![]),
            one_odd_list: None,
            load: None,
            asked_load: 0,
        })))
    }

    fn probes(&self, probe: Probe) {
        self.0.lock().unwrap().probe = probe;
    }

    fn lists(&self, names: &[&str]) {
        self.0.lock().unwrap().models = Ok(names.iter().map(|name| listed(name)).collect());
    }

    fn lists_nothing_readable(&self) {
        self.0.lock().unwrap().models = Err("not a list".into());
    }
}

impl Engine for Fake {
    async fn probe(&self) -> Probe {
        self.0.lock().unwrap().probe.clone()
    }

    async fn models(&self) -> Result<Vec<ListedModel>, String> {
        let mut answers = self.0.lock().unwrap();
        match answers.one_odd_list.take() {
            Some(list) => Ok(list),
            None => answers.models.clone(),
        }
    }

    async fn load(&self) -> Option<Load> {
        let mut answers = self.0.lock().unwrap();
        answers.asked_load += 1;
        answers.load
    }
}

fn start(named: &[&str]) -> (Fake, watch::Receiver<Vec<ModelEntry>>) {
    let (engine, wanted, _) = start_reporting(named, Start::Known(1));
    (engine, wanted)
}

fn start_reporting(
    named: &[&str],
    start: Start,
) -> (Fake, watch::Receiver<Vec<ModelEntry>>, watch::Receiver<EngineReport>) {
    let engine = Fake::new();
    let offer = Offer {
        endpoint: "a.backend.generate".parse().unwrap(),
        url: "http://h:1".parse().unwrap(),
        control: None,
        kinds: default_kinds(),
        names: named.iter().map(|name| (*name).to_owned()).collect(),
        context_length: None,
        accepts: None,
        created: 1,
    };
    let (wanted, receiver) = watch::channel(Vec::new());
    let pace = Pace::new(Duration::from_secs(60));
    let (reports, report) = watch::channel(EngineReport::new(start));
    tokio::spawn(follow(engine.clone(), offer, pace, start, wanted, reports));
    (engine, receiver, report)
}

/// Waits until these models are wanted.
async fn until(wanted: &mut watch::Receiver<Vec<ModelEntry>>, names: &[&str]) {
    let those =
        |entries: &Vec<ModelEntry>| entries.iter().map(ModelEntry::name).eq(names.iter().copied());
    let waited = timeout(Duration::from_secs(600), wanted.wait_for(those)).await;
    waited.expect("in time").unwrap();
}

/// Lets so much time pass, and everyone do what they do meanwhile.
async fn pass(seconds: u64) {
    for _ in 0..seconds * 4 {
        advance(Duration::from_millis(250)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn models_are_wanted_while_the_engine_is_healthy() {
    let (engine, mut wanted) = start(&[]);
    engine.lists(&["m"]);
    pass(3600).await;
    assert!(wanted.borrow().is_empty(), "an engine may load for as long as it takes");

    engine.probes(Probe::Healthy);
    until(&mut wanted, &["m"]).await;
    engine.probes(Probe::Failed("refused".into()));
    until(&mut wanted, &[]).await;
    engine.probes(Probe::Healthy);
    until(&mut wanted, &["m"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_only_busy_stays() {
    let (engine, mut wanted) = start(&["m"]);
    engine.probes(Probe::Healthy);
    until(&mut wanted, &["m"]).await;
    engine.probes(Probe::Silent("http://192.0.2.1:8001/health".into()));
    pass(50).await;
    assert_eq!(wanted.borrow().len(), 1);
    until(&mut wanted, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn adapters_come_and_go() {
    let (engine, mut wanted) = start(&[]);
    engine.probes(Probe::Healthy);
    engine.lists(&["m"]);
    until(&mut wanted, &["m"]).await;
    engine.lists(&["m", "m-lora"]);
    until(&mut wanted, &["m", "m-lora"]).await;
    engine.lists(&["m-lora"]);
    until(&mut wanted, &["m-lora"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_last_stands_while_the_list_cannot_be_read() {
    let (engine, mut wanted) = start(&[]);
    engine.probes(Probe::Healthy);
    engine.lists_nothing_readable();
    pass(30).await;
    assert!(wanted.borrow().is_empty());
    engine.lists(&["m"]);
    until(&mut wanted, &["m"]).await;
    engine.lists_nothing_readable();
    wanted.mark_unchanged();
    pass(60).await;
    assert!(!wanted.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn named_models_need_no_list() {
    let (engine, mut wanted) = start(&["a", "b"]);
    engine.lists_nothing_readable();
    engine.probes(Probe::Healthy);
    until(&mut wanted, &["a", "b"]).await;
    engine.lists(&["default"]);
    wanted.mark_unchanged();
    pass(60).await;
    assert!(!wanted.has_changed().unwrap(), "the engine's own names are not taken");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_lists_nothing_for_one_moment_keeps_its_models() {
    let (engine, mut wanted) = start(&[]);
    engine.probes(Probe::Healthy);
    engine.lists(&["m", "n"]);
    until(&mut wanted, &["m", "n"]).await;
    wanted.mark_unchanged();
    for odd in [&[][..], &["m"], &["n"]] {
        let odd = odd.iter().map(|name| listed(name)).collect();
        engine.0.lock().unwrap().one_odd_list = Some(odd);
        pass(30).await;
        assert!(engine.0.lock().unwrap().one_odd_list.is_none(), "it was read");
        assert!(!wanted.has_changed().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_lists_nothing_twice_is_withdrawn_soon_and_comes_back_soon() {
    let (engine, mut wanted) = start(&[]);
    engine.probes(Probe::Healthy);
    engine.lists(&["m"]);
    until(&mut wanted, &["m"]).await;
    engine.lists(&[]);
    let began = Instant::now();
    until(&mut wanted, &[]).await;
    let pace = Pace::new(Duration::from_secs(60));
    let took = began.elapsed();
    assert!(took > pace.models && took <= pace.models + pace.probe * 2, "{took:?}");
    engine.lists(&["m"]);
    let began = Instant::now();
    until(&mut wanted, &["m"]).await;
    assert!(began.elapsed() <= pace.probe * 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_report_tells_models_adapters_requests_and_probes() {
    let (engine, mut wanted, mut report) = start_reporting(&[], Start::Known(7));
    engine.probes(Probe::Healthy);
    engine.lists(&["m", "m-lora"]);
    engine.0.lock().unwrap().load = Some(Load { running: 1, waiting: 2 });
    until(&mut wanted, &["m", "m-lora"]).await;
    let seen = report.wait_for(|report| report.load.is_some()).await.unwrap().clone();
    assert_eq!((seen.models.len(), seen.adapters), (2, vec!["m-lora".to_owned()]));
    assert_eq!((seen.started, seen.restarts), (Some(7), 0));
    assert_eq!(seen.health.state(), EngineState::Healthy);
    assert!(seen.probes[Probe::Healthy.index()] >= 1);

    engine.probes(Probe::Refused("http://192.0.2.1:8001/health".into()));
    until(&mut wanted, &[]).await;
    let seen = report.wait_for(|report| report.models.is_empty()).await.unwrap().clone();
    assert_eq!((seen.adapters.len(), seen.load), (0, None));
    assert_eq!(seen.health.state(), EngineState::Failing);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_tell_its_requests_is_seldom_asked() {
    let (engine, mut wanted) = start(&["m"]);
    engine.probes(Probe::Healthy);
    until(&mut wanted, &["m"]).await;
    pass(120).await;
    let asked = engine.0.lock().unwrap().asked_load;
    assert!((3..=6).contains(&asked), "{asked}");
}
