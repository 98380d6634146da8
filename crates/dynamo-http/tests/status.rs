//! `/status`: what operators see, and who sees it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use common::{
    Act, Door, Worker, chat, instance, keyed, local_admin, nowhere, scope, send, soon, whole,
};
use dynamo_discovery::ModelUpdate;
use dynamo_http::{
    Alias, AliasTable, AliasTarget, Aliases, Feed, Frontend, FrontendConfig, ProgramProblems,
    ServeOptions, Switchboard, update_http_endpoints,
};
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const CHAT: &str = "/v1/chat/completions";

async fn answer(admin: &Router, path: &str) -> http::Response<Body> {
    let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
    admin.clone().oneshot(request).await.unwrap()
}

async fn status(admin: &Router, query: &str) -> Value {
    let answer = answer(admin, &format!("/status.json{query}")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    serde_json::from_slice(&to_bytes(answer.into_body(), usize::MAX).await.unwrap()).unwrap()
}

fn all<'a>(rows: &'a Value, field: &str) -> Vec<&'a Value> {
    rows["rows"].as_array().unwrap().iter().map(|row| &row[field]).collect()
}

#[tokio::test]
async fn each_instance_is_shown_with_its_state_its_reason_and_since_when() {
    let mut door = Door::open("team-a").await;
    let (worker, nowhere) = (Worker::start([whole("{}")]).await, nowhere().await);
    door.add(&worker.instance("team-a", "a-serving"));
    door.add(&instance("team-a", "b-out", "Chat", Some(&nowhere)));
    door.add(&instance("team-a", "c-unroutable", "Chat", None));
    let held = Worker::start([whole("{}")]).await.instance("team-a", "d-held");
    door.add(&held);
    door.writer.stage_held(&held);
    door.writer.publish();
    assert_eq!(door.post(CHAT, &chat("a-serving")).await.status(), 200);
    assert_eq!(door.post(CHAT, &chat("b-out")).await.status(), 502);

    let admin = door.frontend.admin_router(local_admin());
    let status = status(&admin, "").await;
    let rows = &status["instances"];
    assert_eq!(all(rows, "state"), ["serving", "out", "unroutable", "held"]);
    let reasons = all(rows, "reason");
    assert_eq!((reasons[0], reasons[1]), (&Value::Null, &json!("unreachable")));
    assert_eq!(reasons[2], "registered without a URL");
    assert_eq!(reasons[3], "the store has lost it, and its worker answers");
    let now = status["time"].as_u64().unwrap();
    let since = all(rows, "since");
    assert_eq!((since[0], since[2]), (&Value::Null, &Value::Null));
    for known in [since[1], since[3]] {
        assert!((now - 60..=now).contains(&known.as_u64().unwrap()), "{known} of {now}");
    }
    let counts = json!({"all": 4, "serving": 1, "held": 1, "out": 1, "unroutable": 1});
    assert_eq!(status["totals"]["instances"], counts);
    let problems = status["problems"].to_string();
    for told in [
        "No instance is in rotation for b-out of team-a, c-unroutable",
        "unreachable: 1 instance",
        "lost them: 1",
    ] {
        assert!(problems.contains(told), "{told}: {problems}");
    }
    let route = |name: &str| {
        let routes = status["routes"].as_array().unwrap();
        routes.iter().find(|route| route["endpoint"] == name).unwrap().clone()
    };
    assert_eq!(
        (&route("chat_completions")["open"], &route("images_generations")["open"]),
        (&json!(true), &json!(false))
    );
    assert!(route("images_generations")["since"].as_u64().unwrap() <= now);
}

#[tokio::test]
async fn a_withdrawn_worker_is_shown_for_as_long_as_it_answers_a_request() {
    let mut door = Door::open("team-a").await;
    let worker = Worker::start([vec![send(common::STREAM_HEAD), Act::AwaitPeer]]).await;
    let instance = worker.instance("team-a", "m");
    door.add(&instance);
    let client = door.begin(common::post(CHAT, &chat("m"))).await;
    soon(worker.until_asked()).await;
    let admin = door.frontend.admin_router(local_admin());
    assert_eq!(status(&admin, "").await["leaving"], json!([]));
    door.remove(&instance);
    let leaving = json!([{"url": worker.url, "in_flight": 1}]);
    assert_eq!(status(&admin, "").await["leaving"], leaving);
    drop(client);
    soon(async {
        while status(&admin, "").await["leaving"] != json!([]) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_instances_come_in_pages_and_can_be_searched() {
    let mut door = Door::open("team-a").await;
    let added: Vec<_> = (0..10_000)
        .map(|n| {
            let url = format!("http://192.0.2.{}:{}", n % 250, 8000 + n);
            ModelUpdate::Added(instance(
                "team-a",
                &format!("model-{:02}", n % 40),
                "Chat",
                Some(&url),
            ))
        })
        .collect();
    update_http_endpoints(&mut door.writer, &added);
    let admin = door.frontend.admin_router(local_admin());
    let first = status(&admin, "").await;
    assert_eq!((&first["instances"]["all"], &first["groups"]["all"]), (&json!(10_000), &json!(40)));
    assert_eq!(all(&first["instances"], "key").len(), 50);
    let further = status(&admin, "?instances=9990&groups=38&limit=20").await;
    assert_eq!(
        (all(&further["instances"], "key").len(), all(&further["groups"], "model").len()),
        (10, 2)
    );
    let found = status(&admin, "?search=MODEL-07&limit=500").await;
    assert_eq!(all(&found["instances"], "model"), vec!["model-07"; 250]);
    let one = status(&admin, "?search=192.0.2.7:8007").await;
    assert_eq!(all(&one["instances"], "url"), ["http://192.0.2.7:8007"]);
    let none = status(&admin, "?state=ailing&model=model-01").await;
    assert_eq!((&none["instances"]["all"], &none["groups"]["all"]), (&json!(0), &json!(0)));
    assert_eq!(answer(&admin, "/status.json?sarch=x").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_status_of_a_scope_shows_nothing_of_another_one() {
    let (switchboard, mut writer) = Switchboard::new([scope("team-a"), scope("team-b")]);
    let (_, idle) = Switchboard::new([]);
    let feed = Feed::new(idle, []);
    let frontend = |name| {
        let config = FrontendConfig::default();
        Frontend::new(&switchboard, &scope(name), feed.status(), &config)
    };
    let (a, b) = (frontend("team-a"), frontend("team-b"));
    let workers = [Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await];
    writer.stage_ready();
    let of_a = ModelUpdate::Added(workers[0].instance("team-a", "only-of-a"));
    let of_b = ModelUpdate::Added(workers[1].instance("team-b", "secret-of-b"));
    update_http_endpoints(&mut writer, &[of_a, of_b]);
    let text = async |frontend: &Frontend, query: &str| {
        status(&frontend.admin_router(local_admin()), query).await.to_string()
    };
    for query in ["", "?search=secret", "?namespace=team-b", "?model=secret-of-b"] {
        let text = text(&a, query).await;
        for hidden in ["team-b", "secret-of-b", &workers[1].url] {
            assert!(!text.contains(hidden), "{query}: {hidden} in {text}");
        }
    }
    assert!(text(&b, "").await.contains("secret-of-b"));
}

#[tokio::test]
async fn events_repeat_the_status_and_there_are_sixteen_streams_at_most() {
    let mut door = Door::open("team-a").await;
    let worker = Worker::start([whole("{}")]).await;
    door.add(&worker.instance("team-a", "<script>m"));
    let admin = door.frontend.admin_router(local_admin());
    let mut streams = Vec::new();
    for _ in 0..16 {
        let answer = answer(&admin, "/status/events?search=script").await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        streams.push(answer.into_body().into_data_stream());
    }
    let refused = answer(&admin, "/status/events").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let event = soon(streams[0].next()).await.unwrap().unwrap();
    let text = std::str::from_utf8(&event).unwrap();
    let data = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
    assert!(!data.contains('\n'));
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(all(&data["instances"], "model"), ["<script>m"]);
    streams.pop();
    assert_eq!(answer(&admin, "/status/events").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn clients_have_no_status_and_other_pages_of_a_browser_cannot_read_it() {
    let door = Door::open("team-a").await;
    for path in ["/status", "/status.json", "/status/events"] {
        assert_eq!(door.get(path).await.status(), 404, "{path}");
    }
    let admin = door.frontend.admin_router(local_admin());
    for path in ["/status", "/status.json", "/metrics", "/health"] {
        let answer = answer(&admin, path).await;
        let headers = answer.headers();
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{path}");
        let request = Request::get(path).header("host", "rebound.example").body(Body::empty());
        let answer = admin.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let page = answer(&admin, "/status").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
}

#[tokio::test]
async fn an_operator_sees_for_each_scope_of_a_key_which_routes_are_open_and_since_when() {
    let worker = Worker::start([whole("{}")]).await;
    let door = keyed::Door::open(keyed::both(), &[worker.instance("a", "m")]).await;
    let page = keyed::ask(&door.admin, keyed::get("/metrics", None)).await;
    let value = |metric: &str, scope: &str| {
        let line =
            format!("dynamo_frontend_{metric}{{endpoint=\"chat_completions\",scope=\"{scope}\"}} ");
        let found = page.body().lines().find_map(|one| one.strip_prefix(&line));
        found.unwrap_or_else(|| panic!("{line}: {}", page.body())).parse::<f64>().unwrap()
    };
    let (a, b) = (scope("a").to_string(), scope("b").to_string());
    assert_eq!(value("scope_endpoint_open", &a), 1.0);
    assert_eq!(value("scope_endpoint_open", &b), 0.0);
    assert_eq!(value("scope_endpoint_open", "all"), 1.0);
    for scope in [&a, &b] {
        assert!(value("scope_endpoint_changed_timestamp_seconds", scope) > 1.7e9);
    }
    let status = keyed::ask(&door.admin, keyed::get("/status.json", None)).await.json();
    let names: Vec<_> = status["keys"].as_array().unwrap().iter().map(|key| &key["key"]).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn rates_cover_the_last_minute_however_many_routers_operators_have() {
    let (switchboard, writer) = Switchboard::new([scope("team-a")]);
    let feed = Feed::new(writer, Vec::new());
    let frontend =
        Frontend::new(&switchboard, &scope("team-a"), feed.status(), &FrontendConfig::new());
    let [admin, _second] = [(), ()].map(|()| frontend.admin_router(local_admin()));
    tokio::time::sleep(Duration::from_secs(125)).await;
    let window = status(&admin, "").await["window_seconds"].as_u64().unwrap();
    assert!((50..=60).contains(&window), "{window}");
}

#[tokio::test]
async fn a_problem_of_the_program_is_shown_with_the_time_at_which_it_began() {
    let problems = ProgramProblems::default();
    let config = FrontendConfig::new().with_program_problems(problems.clone());
    let (switchboard, writer) = Switchboard::new([scope("team-a")]);
    let feed = Feed::new(writer, Vec::new());
    let frontend = Frontend::new(&switchboard, &scope("team-a"), feed.status(), &config);
    let admin = frontend.admin_router(local_admin());
    let text = "The configuration file <b>f.yaml</b> cannot be used: line 3\nline 4";
    problems.tell("the configuration file", text);
    let status = status(&admin, "").await;
    let told = &status["problems"][0];
    assert_eq!(told["text"], text.replace('\n', "\\n"));
    assert_eq!(told["weight"], "note");
    let now = status["time"].as_u64().unwrap();
    assert!((now - 60..=now + 60).contains(&told["since"].as_u64().unwrap()), "{told}");
}

#[tokio::test]
async fn a_target_of_an_alias_that_nobody_serves_is_told_unless_it_gets_no_request() {
    let within = |namespace: &str, weight| {
        let target = AliasTarget::new("m").with_namespace(namespace.parse().unwrap());
        target.with_weight(weight)
    };
    let targets =
        [within("team-a", 9), within("team-b", 1), AliasTarget::new("other").with_weight(0)];
    let alias = Alias::new("gpt", targets).with_fallback([AliasTarget::new("spare")]);
    let aliases = Aliases::default();
    aliases.replace(AliasTable::new([alias]).unwrap());
    let config = FrontendConfig::new().with_aliases(aliases);
    let mut door = Door::with("team-a", &config, ServeOptions::default()).await;
    let admin = door.frontend.admin_router(local_admin());
    let told = async |admin: &Router| {
        let problems = status(admin, "").await["problems"].clone();
        let texts = problems.as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap());
        texts.filter(|text| text.contains("alias")).map(str::to_owned).collect::<Vec<_>>()
    };
    // The target in team-b is out of this frontend's scope.
    let text = "No instance serves a target of an alias: m of team-a for gpt, spare for gpt.";
    assert_eq!(told(&admin).await, [text]);
    door.add(&instance("team-a", "m", "Chat", Some("http://192.0.2.7")));
    door.add(&instance("team-a", "spare", "Chat", Some("http://192.0.2.8")));
    assert!(told(&admin).await.is_empty());
}
