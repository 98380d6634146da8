//! Tests of what is asked over HTTP, against small servers on loopback.

use axum::Router;
use axum::routing::get;
use dynamo_discovery::WorkerUrl;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;

use super::*;

async fn serve(router: Router) -> WorkerUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    url.parse().unwrap()
}

fn engine(url: &WorkerUrl) -> HttpEngine {
    HttpEngine::new(url.clone(), WorkerKey::default(), WorkerTls::default())
}

fn answers(path: &'static str, status: StatusCode) -> Router {
    Router::new().route(path, get(move || async move { status }))
}

#[tokio::test]
async fn health_is_asked_first_and_the_models_where_there_is_none() {
    let failed = |why: &str| Probe::Failed(why.to_owned());
    for (path, status, expected) in [
        ("/health", StatusCode::OK, Probe::Healthy),
        ("/health", StatusCode::SERVICE_UNAVAILABLE, Probe::Loading),
        ("/health", StatusCode::UNAUTHORIZED, Probe::Healthy),
        ("/health", StatusCode::INTERNAL_SERVER_ERROR, failed("500 from URL/health")),
        ("/v1/models", StatusCode::OK, Probe::Healthy),
        ("/v1/models", StatusCode::UNAUTHORIZED, Probe::Healthy),
        ("/v1/models", StatusCode::SERVICE_UNAVAILABLE, Probe::Loading),
        ("/other", StatusCode::OK, failed("404 from URL/health and from /v1/models")),
    ] {
        let url = serve(answers(path, status)).await;
        let probe = match engine(&url).probe().await {
            Probe::Failed(why) => failed(&why.replace(url.as_str(), "URL")),
            probe => probe,
        };
        assert_eq!(probe, expected, "{path} {status}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let redirect = || async { (StatusCode::TEMPORARY_REDIRECT, [("location", "/v1/models")]) };
    let url = serve(answers("/v1/models", StatusCode::OK).route("/health", get(redirect))).await;
    assert_eq!(engine(&url).probe().await, Probe::Failed(format!("307 from {url}/health")));
}

#[tokio::test]
async fn a_closed_port_is_a_failure_and_a_mute_one_is_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: WorkerUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let client = Client::new(url.clone(), WorkerKey::default(), WorkerTls::default());
    // It is accepted by the kernel, and nobody answers.
    let mute = probe::probe(&client, Duration::from_millis(100)).await;
    assert_eq!(mute, Probe::Silent(format!("{url}/health")));
    drop(listener);
    let closed = engine(&url).probe().await;
    assert_eq!(closed, Probe::Refused(format!("{url}/health")));
}

#[tokio::test]
async fn an_engine_whose_health_blocks_is_busy_while_its_list_of_models_answers() {
    let blocked = || std::future::pending::<StatusCode>();
    for (models, expected) in
        [(StatusCode::OK, Probe::Busy), (StatusCode::INTERNAL_SERVER_ERROR, Probe::Busy)]
    {
        let url = serve(answers("/v1/models", models).route("/health", get(blocked))).await;
        let client = Client::new(url, WorkerKey::default(), WorkerTls::default());
        assert_eq!(probe::probe(&client, Duration::from_millis(600)).await, expected);
    }
    let all = Router::new().route("/health", get(blocked)).route("/v1/models", get(blocked));
    let url = serve(all).await;
    let client = Client::new(url.clone(), WorkerKey::default(), WorkerTls::default());
    let silent = probe::probe(&client, Duration::from_millis(600)).await;
    assert_eq!(silent, Probe::Silent(format!("{url}/health")));
}

#[tokio::test]
async fn an_engine_that_answers_late_and_well_is_healthy() {
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        StatusCode::OK
    };
    let url = serve(answers("/v1/models", StatusCode::OK).route("/health", get(slow))).await;
    assert_eq!(engine(&url).probe().await, Probe::Healthy);
}

#[tokio::test]
async fn requests_are_read_from_the_metrics_and_a_page_that_does_not_end_holds_nobody_up() {
    let page = || async { "llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n" };
    let url = serve(Router::new().route("/metrics", get(page))).await;
    assert_eq!(engine(&url).load().await, Some(Load { running: 2, waiting: 3 }));
    for router in [
        Router::new(),
        answers("/metrics", StatusCode::NOT_IMPLEMENTED),
        Router::new().route("/metrics", get(|| async { "x".repeat(8 << 20) })),
        Router::new().route("/metrics", get(std::future::pending::<StatusCode>)),
    ] {
        assert_eq!(engine(&serve(router).await).load().await, None);
    }
}

#[tokio::test]
async fn somebody_listens_where_a_connection_is_accepted_though_nothing_is_answered() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).await.unwrap();
        let url: WorkerUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        assert!(somebody_listens(&url).await, "{url}");
        drop(listener);
        assert!(!somebody_listens(&url).await, "{url}");
    }
}

#[tokio::test]
async fn the_key_and_the_path_of_the_url_are_used() {
    let models = |headers: HeaderMap| async move {
        match headers.get("authorization") {
            Some(key) if key == "Bearer k" => (StatusCode::OK, r#"{"data":[{"id":"m"}]}"#),
            _ => (StatusCode::UNAUTHORIZED, ""),
        }
    };
    let url = serve(Router::new().route("/llm/v1/models", get(models))).await;
    let url: WorkerUrl = format!("{url}/llm").parse().unwrap();
    let key = WorkerKey::default();
    key.set("k").unwrap();
    let listed = HttpEngine::new(url.clone(), key, WorkerTls::default()).models().await.unwrap();
    assert_eq!(listed[0].name, "m");
    let refused = engine(&url).models().await.unwrap_err();
    assert_eq!(refused, format!("401 from {url}/v1/models: the engine wants a key"));
}

#[tokio::test]
async fn an_endless_list_is_not_read_to_its_end() {
    let endless = || async { "x".repeat(8 << 20) };
    let url = serve(Router::new().route("/v1/models", get(endless))).await;
    let error = engine(&url).models().await.unwrap_err();
    assert!(error.contains("limit"), "{error}");
}
