//! Web pages of other origins: what a browser is told, and what no worker learns.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use process::{FRONTEND, Running, finish_with, until};
use ureq::http::{HeaderMap, Method, Request, StatusCode};

const PAGE: &str = "https://chat.example";
const STRANGER: &str = "https://other.example";
const CHATS: &str = "/v1/chat/completions";
const KEY: &str = "sk-0123456789abcdef0123456789abcdef";

/// An engine with rules of its own, which answers each request to an origin by allowing everyone.
/// The heads of the requests that it got.
fn engine() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heads, received) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
            let own = if head.to_ascii_lowercase().contains("\norigin:") {
                "access-control-allow-origin: *\r\n"
            } else {
                ""
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{own}content-type: application/json\r\ncontent-length: 2\r\n\
                 connection: close\r\n\r\n{{}}"
            );
            // Nobody reads the answer to a probe whose sender has gone.
            let _ = (&stream).write_all(answer.as_bytes());
            let _ = heads.send(head);
        }
    });
    (url, received)
}

fn frontend(worker: &str, arguments: &[&str]) -> (Running, String) {
    let worker = format!("m={worker}");
    let local = ["--http-host", "127.0.0.1", "--http-port", "0", "--worker-url", &worker];
    let frontend = Running::start(FRONTEND, &[&local, arguments].concat(), &[]);
    let address = frontend.wait_for_field("listening", "address");
    (frontend, address)
}

/// A page of this origin asks, as its browser does for it. Returns the status and the headers.
fn ask(address: &str, method: &Method, path: &str, origin: &str) -> (StatusCode, HeaderMap) {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent();
    let request = Request::builder()
        .method(method.clone())
        .uri(format!("http://{address}{path}"))
        .header("origin", origin);
    let answer = if *method == Method::OPTIONS {
        let request = request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type");
        agent.run(request.body(()).unwrap())
    } else {
        let request = request.header("content-type", "application/json");
        agent.run(request.body(r#"{"model":"m","messages":[]}"#).unwrap())
    };
    let (head, _) = answer.unwrap().into_parts();
    (head.status, head.headers)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn a_preflight_is_answered_without_a_key_and_refusals_carry_the_headers_too() {
    let (engine, _heads) = engine();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let hash = finish_with(FRONTEND, &["hash-key"], KEY).stdout;
    let list = serde_json::json!([{"name": "page", "hash": hash.trim(), "all_namespaces": true}]);
    std::fs::write(&keys, list.to_string()).unwrap();
    let keys = keys.to_str().unwrap();
    let (_frontend, address) = frontend(&engine, &["--api-keys", keys, "--cors-origin", PAGE]);

    let (status, headers) = ask(&address, &Method::OPTIONS, CHATS, PAGE);
    assert_eq!(status, 200);
    assert_eq!(header(&headers, "access-control-allow-origin"), Some(PAGE));
    assert_eq!(header(&headers, "access-control-allow-methods"), Some("GET,POST"));
    let allowed = header(&headers, "access-control-allow-headers");
    assert_eq!(allowed, Some("authorization,content-type"));
    assert_eq!(header(&headers, "access-control-max-age"), Some("600"));
    assert_eq!(header(&headers, "access-control-allow-credentials"), None);

    let (status, headers) = ask(&address, &Method::POST, CHATS, PAGE);
    assert_eq!(status, 401, "a request needs its key all the same");
    assert_eq!(header(&headers, "access-control-allow-origin"), Some(PAGE));
    let readable = header(&headers, "access-control-expose-headers").unwrap();
    assert!(readable.contains("retry-after") && readable.contains("x-request-id"), "{readable}");

    for method in [Method::OPTIONS, Method::POST] {
        let (_, headers) = ask(&address, &method, CHATS, STRANGER);
        assert_eq!(header(&headers, "access-control-allow-origin"), None);
        assert!(header(&headers, "vary").unwrap().contains("origin"), "a cache must not mix them");
    }
}

#[test]
fn no_worker_sees_the_origin_and_no_rule_of_its_own_gets_out() {
    let (engine, heads) = engine();
    let (_frontend, address) = frontend(&engine, &["--cors-origin", PAGE]);
    until("the model is served", || ask(&address, &Method::POST, CHATS, PAGE).0 == 200);
    for origin in [PAGE, STRANGER] {
        let (status, headers) = ask(&address, &Method::POST, CHATS, origin);
        assert_eq!(status, 200);
        let allowed = headers.get_all("access-control-allow-origin").iter().collect::<Vec<_>>();
        let expected: &[&str] = if origin == PAGE { &[PAGE] } else { &[] };
        assert_eq!(allowed, expected);
    }
    let heads: Vec<_> = heads.try_iter().filter(|head| head.contains(CHATS)).collect();
    assert!(heads.len() >= 3, "{heads:?}");
    assert!(heads.iter().all(|head| !head.to_ascii_lowercase().contains("origin")), "{heads:?}");
}

#[test]
fn without_the_setting_nothing_is_allowed_and_a_star_allows_all() {
    let (engine, _heads) = engine();
    let (_closed, address) = frontend(&engine, &[]);
    let (status, headers) = ask(&address, &Method::OPTIONS, CHATS, PAGE);
    assert_eq!((status.as_u16(), header(&headers, "access-control-allow-origin")), (405, None));
    let (_open, address) = frontend(&engine, &["--cors-origin", "*"]);
    let (status, headers) = ask(&address, &Method::OPTIONS, CHATS, STRANGER);
    assert_eq!(
        (status.as_u16(), header(&headers, "access-control-allow-origin")),
        (200, Some("*"))
    );
}
