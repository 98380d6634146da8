//! The routes of a control port, on facts that the test sets.

use axum::Router;
use axum::body::Body;
use dynamo_discovery::{EngineState, InstanceId, InstanceStatus, WorkerState};
use dynamo_http::ProgramProblems;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::*;
use crate::certificates::Certificates;
use crate::engine::{Load, Probe};
use crate::worker::life::Start;
use crate::worker::register::{Offering, RegistrationReport};
use crate::worker::report::EngineReport;

const KEY: &str = "a-key-that-nobody-could-guess";

/// A control port, and what its facts are made from.
struct Stage {
    router: Router,
    engine: watch::Sender<EngineReport>,
    registration: watch::Sender<RegistrationReport>,
    offering: watch::Receiver<Offering>,
}

fn stage(key: Option<&str>) -> Stage {
    let (engine, engine_seen) = watch::channel(EngineReport::new(Start::Known(1_790_000_000)));
    let (registration, registration_seen) = watch::channel(RegistrationReport::default());
    let (offering, offered) = watch::channel(Offering::Open);
    let facts = Facts {
        instance: InstanceId(0x1f),
        engine: engine_seen,
        registration: registration_seen,
        offering,
        certificates: Certificates::watch([], ProgramProblems::default()),
    };
    let router = routes::router(facts, key.map(|key| ControlKey::of(key).unwrap()));
    Stage { router, engine, registration, offering: offered }
}

impl Stage {
    /// Has an engine in service, with its models registered.
    fn serves(&self) {
        self.engine.send_modify(|report| {
            report.health.observe(&Probe::Healthy, Instant::now(), Duration::MAX);
            report.models = vec!["base".into(), "lora".into()];
            report.adapters = vec!["lora".into()];
        });
        self.registration.send_modify(|report| report.models = 2);
    }

    async fn ask(&self, method: Method, path: &str, key: Option<&str>) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, key: &str) -> (StatusCode, Value) {
        let (status, body) = self.ask(Method::POST, path, Some(key)).await;
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    async fn status(&self) -> InstanceStatus {
        let (status, body) = self.get("/instance/1f").await;
        assert_eq!(status, StatusCode::OK);
        InstanceStatus::from_json(body.as_bytes()).unwrap()
    }
}

#[tokio::test]
async fn only_the_own_id_is_known_and_there_is_no_list() {
    let stage = stage(Some(KEY));
    stage.serves();
    assert_eq!(stage.get("/instance/1f").await.0, StatusCode::OK);
    for path in
        ["/instance/1F", "/instance/01f", "/instance/1e", "/instance/", "/instance", "/", "/x"]
    {
        let answer = stage.get(path).await;
        assert_eq!(answer, (StatusCode::NOT_FOUND, String::new()), "{path}");
    }
}

#[tokio::test]
async fn the_status_is_that_of_the_engine_and_of_what_the_worker_does() {
    let stage = stage(None);
    let status = stage.status().await;
    assert_eq!((status.state, status.engine), (WorkerState::Starting, EngineState::Failing));
    assert_eq!((status.models.len(), status.running), (0, None));
    assert_eq!(stage.get("/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);

    stage.serves();
    let status = stage.status().await;
    assert_eq!((status.state, status.engine), (WorkerState::Serving, EngineState::Healthy));
    assert_eq!(status.models, ["base", "lora"]);
    assert_eq!(
        (status.adapters, status.engine_started),
        (vec!["lora".to_owned()], Some(1_790_000_000))
    );
    assert_eq!(stage.get("/ready").await.0, StatusCode::OK);

    let silent = Probe::Silent("http://192.0.2.1:8001/health".into());
    stage.engine.send_modify(|report| {
        report.load = Some(Load { running: 3, waiting: 5 });
        for _ in 0..3 {
            report.health.observe(&silent, Instant::now(), Duration::MAX);
        }
    });
    let status = stage.status().await;
    assert_eq!((status.state, status.engine), (WorkerState::Serving, EngineState::Silent));
    assert_eq!((status.running, status.waiting), (Some(3), Some(5)));
    assert_eq!(stage.get("/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn whoever_has_the_key_drains_and_undrains_and_nobody_else() {
    let mut stage = stage(Some(KEY));
    stage.serves();
    let bearer = format!("Bearer {KEY}");
    for key in [
        None,
        Some("Bearer "),
        Some(KEY),
        Some("Basic x"),
        Some("Bearer a-key-that-somebody-did-guess"),
    ] {
        for path in ["/drain", "/undrain"] {
            let answer = stage.ask(Method::POST, path, key).await;
            assert_eq!(answer, (StatusCode::UNAUTHORIZED, String::new()), "{path} {key:?}");
        }
    }
    assert_eq!(*stage.offering.borrow(), Offering::Open);
    assert_eq!(
        stage.ask(Method::GET, "/drain", Some(&bearer)).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );

    // What registers follows.
    let (mut offered, registration) = (stage.offering.clone(), stage.registration.clone());
    let following = tokio::spawn(async move {
        while offered.changed().await.is_ok() {
            let models = if *offered.borrow() == Offering::Open { 2 } else { 0 };
            registration.send_modify(|report| report.models = models);
        }
    });
    let drained = (StatusCode::OK, json!({"state": "draining", "registered": 0}));
    assert_eq!(stage.post("/drain", &bearer).await, drained);
    assert_eq!(stage.post("/drain", &bearer).await, drained, "it is so already");
    assert_eq!(stage.status().await.state, WorkerState::Draining);
    assert_eq!(stage.get("/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let serves = (StatusCode::OK, json!({"state": "serving", "registered": 2}));
    assert_eq!(stage.post("/undrain", &bearer).await, serves);
    assert_eq!(stage.get("/ready").await.0, StatusCode::OK);
    following.abort();
    stage.offering.mark_unchanged();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_holds_no_answer_up() {
    let stage = stage(Some(KEY));
    stage.serves();
    let answer = stage.post("/drain", &format!("bearer {KEY}")).await;
    assert_eq!(answer, (StatusCode::ACCEPTED, json!({"state": "draining", "registered": 2})));
}

#[tokio::test]
async fn without_a_key_nobody_drains() {
    let stage = stage(None);
    for path in ["/drain", "/undrain"] {
        let answer = stage.ask(Method::POST, path, Some(&format!("Bearer {KEY}"))).await;
        assert_eq!(answer, (StatusCode::NOT_FOUND, String::new()), "{path}");
    }
}

#[tokio::test]
async fn metrics_tell_of_engine_lease_and_probes_and_name_nobody() {
    let stage = stage(None);
    let (_, before) = stage.get("/metrics").await;
    assert!(before.contains("dynamo_worker_engine_up 0"), "{before}");
    assert!(!before.contains("engine_requests_running"), "what is not known is not told: {before}");
    stage.serves();
    stage.engine.send_modify(|report| {
        report.load = Some(Load { running: 3, waiting: 5 });
        report.probes[Probe::NAMES.len() - 1] = 7;
        report.restarts = 1;
    });
    stage.registration.send_modify(|report| {
        *report = RegistrationReport {
            has_lease: true,
            models: 2,
            registrations: 4,
            failures: 6,
            leases_lost: 8,
        };
    });
    let (_, page) = stage.get("/metrics").await;
    for line in [
        "dynamo_worker_engine_up 1",
        "dynamo_worker_engine_restarts_total 1",
        "dynamo_worker_engine_start_time_seconds 1790000000",
        "dynamo_worker_engine_requests_running 3",
        "dynamo_worker_engine_requests_waiting 5",
        "dynamo_worker_probes_total{result=\"silent\"} 7",
        "dynamo_worker_probes_total{result=\"healthy\"} 0",
        "dynamo_worker_lease_held 1",
        "dynamo_worker_leases_lost_total 8",
        "dynamo_worker_registered_models 2",
        "dynamo_worker_registrations_total 4",
        "dynamo_worker_registration_failures_total 6",
        "dynamo_worker_draining 0",
    ] {
        assert!(page.lines().any(|told| told == line), "{line}: {page}");
    }
    assert!(page.lines().any(|line| line.starts_with("dynamo_worker_engine_silent_seconds ")));
    for name in ["base", "lora", "1f"] {
        assert!(!page.contains(name), "{name}: {page}");
    }
}
