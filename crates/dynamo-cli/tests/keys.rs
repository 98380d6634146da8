//! Keys as operators use them: made, listed in a file, changed and taken away.

#![expect(clippy::unwrap_used, reason = "it is a test")]

mod process;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use process::{FRONTEND, Running, WORKER, finish, finish_with, until};
use serde_json::{Value, json};

/// How long after a change it is taken up, at the latest.
const BOUND: Duration = Duration::from_secs(2);

/// A new key and its hash.
fn new_key() -> (String, String) {
    let made = finish(FRONTEND, &["hash-key", "--generate"], &[]);
    assert_eq!((made.code, made.stderr.as_str()), (0, ""));
    let (key, hash) = made.stdout.trim_end().split_once('\n').unwrap();
    (key.to_owned(), hash.to_owned())
}

/// An echo engine with one model.
fn engine(model: &str) -> (Running, String) {
    let nowhere = ["--etcd-endpoints", "http://127.0.0.1:1"];
    let echo = ["--echo", "--echo-delay-ms", "0", "--model", model];
    let worker = Running::start(WORKER, &[&echo[..], &nowhere].concat(), &[]);
    let url = worker.wait_for_field("the echo engine listens", "url");
    (worker, url)
}

/// A frontend, the URL of its main port, and that of its admin port.
fn frontend(arguments: &[&str]) -> (Running, String, String) {
    let local = ["--http-host", "127.0.0.1", "--http-port", "0", "--admin-port", "0"];
    let frontend = Running::start(FRONTEND, &[&local, arguments].concat(), &[]);
    let url = |line| format!("http://{}", frontend.wait_for_field(line, "address"));
    let (admin, base) = (url("the admin port listens"), url(" listening "));
    until("the frontend is ready", || get(&format!("{base}/ready"), "").0 == 200);
    (frontend, base, admin)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// Status and body.
fn get(url: &str, key: &str) -> (u16, String) {
    let request = agent().get(url).header("authorization", format!("Bearer {key}"));
    let mut answer = request.call().unwrap();
    (answer.status().into(), answer.body_mut().read_to_string().unwrap())
}

fn models(base: &str, key: &str) -> Vec<String> {
    let (status, body) = get(&format!("{base}/v1/models"), key);
    assert_eq!(status, 200, "{body}");
    let list: Value = serde_json::from_str(&body).unwrap();
    let ids = list["data"].as_array().unwrap().iter();
    ids.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

fn chat(base: &str, key: &str, model: &str) -> u16 {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "a" }] });
    let request = agent()
        .post(format!("{base}/v1/chat/completions"))
        .header("authorization", format!("Bearer {key}"));
    request.send_json(body).unwrap().status().into()
}

fn write(file: &Path, entries: &Value) {
    fs::write(file, entries.to_string()).unwrap();
}

#[test]
fn a_key_is_made_or_hashed_and_never_shown_when_it_is_refused() {
    // `printf %s abcdefghijklmnopqrstuvwxyz | sha256sum`
    let hash = "sha256:71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73\n";
    for stdin in ["abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz\r\nmore\n"] {
        let hashed = finish_with(FRONTEND, &["hash-key"], stdin);
        assert_eq!((hashed.code, hashed.stdout.as_str()), (0, hash));
    }
    let (key, hash) = new_key();
    assert_ne!(key, new_key().0);
    assert_eq!(finish_with(FRONTEND, &["hash-key"], &key).stdout.trim_end(), hash);

    for stdin in ["", "s3cret", "s3cret s3cret s3cret s3cret", &"s3cret".repeat(200)] {
        let ended = finish_with(FRONTEND, &["hash-key"], stdin);
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{ended:?}");
        assert!(ended.stderr.starts_with("error: a key is 24 to 1024"), "{ended:?}");
        assert!(ended.stderr.lines().count() == 1 && !ended.stderr.contains("s3cret"));
    }
    let help = finish(FRONTEND, &["hash-key", "--help"], &[]);
    assert!(help.code == 0 && help.stdout.contains("--generate"), "{help:?}");
    assert_eq!(finish(FRONTEND, &["hash-key", "--nope"], &[]).code, 2);
}

#[test]
fn a_file_that_cannot_be_used_is_one_line_and_exit_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let path = file.to_str().unwrap();
    let (_, hash) = new_key();
    let of_b = json!([{ "name": "b", "hash": hash, "namespace": "team-b" }]).to_string();
    for (flag, text, part) in [
        ("--api-keys", None, "cannot read"),
        ("--api-keys", Some(""), "EOF while parsing"),
        ("--api-keys", Some("[\n{\"nme\": \"a\"}]"), "unknown field `nme`, expected one of `name`"),
        ("--api-keys", Some("[\n{\"nme\": \"a\"}]"), "line 2 column 6"),
        ("--api-keys", Some(&of_b), "the key b is for team-b, and this frontend discovers team-a"),
        ("--worker-api-key-file", None, "cannot read"),
        ("--worker-api-key-file", Some(" \n"), "holds no key"),
        ("--worker-api-key-file", Some("s3cret one"), "holds no key"),
    ] {
        let _ = fs::remove_file(&file);
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let arguments = ["--namespace", "team-a", "--http-port", "0", flag, path];
        let ended = finish(FRONTEND, &arguments, &[("DYN_LOG", "off")]);
        let shown = format!("{text:?}: {ended:?}");
        assert_eq!(ended.code, 2, "{shown}");
        assert_eq!(ended.stderr.lines().count(), 1, "{shown}");
        for part in ["error: ", flag, path, part] {
            assert!(ended.stderr.contains(part), "{part}: {shown}");
        }
        assert!(!ended.stderr.contains("s3cret"), "{shown}");
    }
}

#[test]
fn one_frontend_serves_two_teams_and_its_admin_port_the_operators() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let ((a, hash_a), (b, hash_b), (all, hash_all)) = (new_key(), new_key(), new_key());
    write(
        &file,
        &json!([
            { "name": "a", "hash": hash_a, "namespace": "team-a", "requests_per_minute": 1 },
            { "name": "b", "hash": hash_b, "namespace": "team-b" },
            { "name": "ops", "hash": hash_all, "all_namespaces": true },
        ]),
    );
    let ((_one, url_a), (_two, url_b)) = (engine("of-a"), engine("of-b"));
    let workers = [url_a + ";namespace=team-a", url_b + ";namespace=team-b"];
    let (frontend, base, admin) = frontend(&[
        "--api-keys",
        file.to_str().unwrap(),
        "--worker-url",
        &workers[0],
        "--worker-url",
        &workers[1],
    ]);
    assert!(frontend.wait_for("API keys taken up").contains("keys=3"));
    until("both teams have their model", || models(&base, &all) == ["of-a", "of-b"]);
    assert_eq!(models(&base, &a), ["of-a"]);
    assert_eq!(models(&base, &b), ["of-b"]);
    assert_eq!(chat(&base, &b, "of-b"), 200);
    assert_eq!(chat(&base, &b, "of-a"), 404);
    assert_eq!(chat(&base, &a, "of-a"), 200);
    assert_eq!(chat(&base, &a, "of-a"), 429);
    for path in ["/v1/models", "/health", "/metrics", "/nothing"] {
        assert_eq!(get(&format!("{base}{path}"), "").0, 401, "{path}");
    }
    for path in ["/health", "/metrics"] {
        assert_eq!(get(&format!("{base}{path}"), &all).0, 404, "{path}");
        let (status, body) = get(&format!("{admin}{path}"), "");
        assert!(status == 200 && body.contains("team-") | body.contains("key=\"ops\""), "{body}");
    }
    let logged = frontend.logged();
    assert!(![&a, &b, &all, &hash_a].iter().any(|secret| logged.contains(*secret)), "{logged}");
}

#[test]
fn a_changed_file_is_taken_up_by_itself_and_on_sighup_and_a_bad_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let ((old, old_hash), (new, new_hash)) = (new_key(), new_key());
    let entry = |hash: &str| json!([{ "name": "k", "hash": hash, "namespace": "team-a" }]);
    write(&file, &entry(&old_hash));
    let (_engine, url) = engine("m");
    let worker = url + ";namespace=team-a";
    let arguments = ["--api-keys", file.to_str().unwrap(), "--worker-url", &worker];
    let (frontend, base, _) = frontend(&arguments);
    let status = |key: &str| get(&format!("{base}/v1/models"), key).0;
    assert_eq!((status(&old), status(&new)), (200, 401));

    let changed = Instant::now();
    write(&file, &entry(&new_hash));
    until("the new key opens", || status(&new) == 200);
    println!("a change was taken up after {:?}, bound {BOUND:?}", changed.elapsed());
    assert_eq!(status(&old), 401);

    fs::write(&file, "[{").unwrap();
    let refused = frontend.wait_for("a changed file cannot be used; what was known stands");
    assert!(refused.contains("--api-keys") && refused.contains("line 1"), "{refused}");
    assert_eq!(status(&new), 200);
    fs::remove_file(&file).unwrap();
    frontend.wait_for("cannot read");
    assert_eq!(status(&new), 200);

    write(&file, &entry(&old_hash));
    until("the old key opens again", || status(&old) == 200);
    let taken_up = || frontend.logged().matches("API keys taken up").count();
    let before = taken_up();
    frontend.signal("HUP");
    until("the same file is taken up once more", || taken_up() > before);
    assert_eq!((status(&old), status(&new)), (200, 401));
    write(&file, &json!([]));
    frontend.wait_for("nobody gets in");
    assert_eq!(status(&old), 401);
    frontend.signal("TERM");
    assert_eq!(frontend.end().code, 0);
}

#[test]
fn workers_get_the_key_of_the_frontend_in_requests_and_when_they_are_asked_for_their_models() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // A frontend that wants a key is an engine that wants one.
    let ((first, first_hash), (second, second_hash)) = (new_key(), new_key());
    let entry = |hash: &str| json!([{ "name": "front", "hash": hash, "all_namespaces": true }]);
    write(&at("keys.json"), &entry(&first_hash));
    let (_engine, url) = engine("m");
    let keys = at("keys.json");
    let inner = ["--api-keys", keys.to_str().unwrap(), "--worker-url", &url];
    let (_inner, inner, _) = frontend(&inner);

    let key_file = at("worker-key");
    fs::write(&key_file, format!("{first}\n")).unwrap();
    let arguments = ["--worker-api-key-file", key_file.to_str().unwrap(), "--worker-url", &inner];
    let (_outer, outer, _) = frontend(&arguments);
    until("the models are read with the key", || models(&outer, "") == ["m"]);
    assert_eq!(chat(&outer, "a key of the client's own", "m"), 200);

    write(&keys, &entry(&second_hash));
    until("the old key is not valid any more", || chat(&outer, "", "m") == 401);
    fs::write(&key_file, &second).unwrap();
    until("workers get the new key", || chat(&outer, "", "m") == 200);
}
