//! The access log as operators use it: a file, a rotation, a pipe, stdout.

#![expect(clippy::unwrap_used, reason = "it is a test")]

mod process;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use process::{FRONTEND, agent, echo_engine, finish, get, ready_frontend, sample, until};
use serde_json::{Value, json};

/// The status and the whole body of an answer.
fn chat(base: &str, key: &str, stream: bool) -> (u16, String) {
    let messages = [json!({ "role": "user", "content": "one secret word" })];
    let body = json!({ "model": "m", "messages": messages, "stream": stream,
        "stream_options": stream.then(|| json!({ "include_usage": true })) });
    let request = agent()
        .post(format!("{base}/v1/chat/completions?also=secret"))
        .header("authorization", format!("Bearer {key}"));
    let mut answer = request.send_json(body).unwrap();
    (answer.status().into(), answer.body_mut().read_to_string().unwrap())
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(!text.contains("secret"), "no word of a prompt, an answer or a query: {text}");
    let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until_lines(path: &Path, count: usize) -> Vec<Value> {
    until("the lines are there", || lines(path).len() >= count);
    lines(path)
}

const LOST: &str = "dynamo_frontend_access_log_lost_total{reason=\"queue_full\"}";
const FAILED: &str = "dynamo_frontend_access_log_lost_total{reason=\"write_failed\"}";

#[test]
fn each_request_leaves_a_line_and_a_rotation_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) =
        (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let made = finish(FRONTEND, &["hash-key", "--generate"], &[]).stdout;
    let (key, hash) = made.trim_end().split_once('\n').unwrap();
    let keys = directory.path().join("keys.json");
    fs::write(
        &keys,
        json!([{ "name": "team-a", "hash": hash, "namespace": "global" }]).to_string(),
    )
    .unwrap();
    let (_worker, engine) = echo_engine();
    let arguments = ["--access-log", path.to_str().unwrap(), "--api-keys", keys.to_str().unwrap()];
    let (frontend, base, admin) = ready_frontend(&engine, &arguments, &[]);
    assert_eq!((sample(&admin, LOST), sample(&admin, FAILED)), (0, 0), "they exist from the start");

    assert_eq!(chat(&base, key, true).0, 200);
    let line = &until_lines(&path, 1)[0];
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o027, 0, "{mode:o}");
    assert_eq!((&line["key"], &line["peer"]), (&json!("team-a"), &json!("127.0.0.1")));
    assert_eq!(
        (&line["model"], &line["status"], &line["outcome"]),
        (&json!("m"), &json!(200), &json!("complete"))
    );
    assert_eq!((&line["stream"], &line["tokens_estimated"]), (&json!(true), &json!(false)));
    assert!(line["tokens_out"].as_u64().unwrap() > 0 && line["ttft_ms"].is_number(), "{line}");
    assert_eq!(line["worker"], json!(engine));

    fs::rename(&path, &moved).unwrap();
    frontend.signal("HUP");
    until("there is a new file", || path.exists());
    assert_eq!(chat(&base, "a-key-that-nobody-has-been-given", false).0, 401);
    let line = &until_lines(&path, 1)[0];
    assert_eq!(
        (&line["status"], &line["error"], &line["key"]),
        (&json!(401), &json!("invalid_api_key"), &Value::Null)
    );
    let logged = fs::read_to_string(&path).unwrap() + &fs::read_to_string(&moved).unwrap();
    assert!(!logged.contains(key) && !logged.contains("nobody-has"), "{logged}");
    assert_eq!((lines(&path).len(), lines(&moved).len()), (1, 1));
    assert_eq!(sample(&admin, "dynamo_frontend_access_log_lines_total"), 2);

    // The last lines are written before the program ends.
    (0..20).for_each(|_| assert_eq!(chat(&base, key, false).0, 200));
    frontend.signal("TERM");
    assert_eq!(frontend.end().code, 0);
    assert_eq!(lines(&path).len(), 21);
}

#[test]
fn a_reader_that_stands_still_and_a_full_disk_delay_no_request_and_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (_worker, engine) = echo_engine();
    for (output, counted) in [(pipe.to_str().unwrap(), None), ("/dev/full", Some(FAILED))] {
        let (frontend, base, admin) = ready_frontend(&engine, &["--access-log", output], &[]);
        // More than a pipe takes.
        for _ in 0..300 {
            assert_eq!(get(&format!("{base}/v1/models")).0, 200);
        }
        if let Some(counted) = counted {
            until("all are counted", || sample(&admin, counted) == 300);
            frontend.wait_for("lines of the access log were lost: they cannot be written");
        }
        frontend.signal("TERM");
        assert_eq!(frontend.end().code, 0);
    }
}

#[test]
fn lines_go_to_stdout_and_nothing_else_does() {
    let (_worker, engine) = echo_engine();
    let (frontend, base, _) = ready_frontend(&engine, &["--access-log", "-"], &[]);
    assert_eq!(chat(&base, "", false).0, 200);
    assert_eq!(get(&format!("{base}/v1/nothing")).0, 404);
    frontend.signal("HUP");
    frontend.signal("TERM");
    let ended = frontend.end();
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let routes: Vec<_> = lines.iter().map(|line| line["route"].as_str().unwrap()).collect();
    assert_eq!(routes, ["/v1/chat/completions", "/v1/nothing"]);
}

#[test]
fn a_file_that_cannot_be_opened_ends_the_program_with_one_line() {
    let ended = finish(FRONTEND, &["--access-log", "/nowhere/access.log"], &[]);
    assert_eq!(ended.code, 2);
    let last = ended.stderr.lines().last().unwrap();
    assert!(
        last.starts_with("error: --access-log (DYN_ACCESS_LOG): /nowhere/access.log: "),
        "{last}"
    );
}
