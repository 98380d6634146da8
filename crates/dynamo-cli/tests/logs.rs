//! Logs that nobody takes cost nothing but themselves.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::io::{Read as _, pipe};
use std::process::{Child, Command, Stdio};

use process::{FRONTEND, WORKER, finish, free_port, until};
use rustix::process::{Pid, Signal, kill_process};

/// A program that writes its log there; killed when this is dropped.
struct Program(Child);

impl Program {
    fn start(program: &str, arguments: &[&str], stderr: impl Into<Stdio>) -> Self {
        let mut command = Command::new(program);
        let command = command.args(arguments).env_clear().env("DYN_LOG", "trace");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap())
    }

    /// Its exit code, once it is asked to end.
    fn end(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let mut status = None;
        until("the program has ended", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A frontend with one worker, which nobody is; and its port.
fn frontend(stderr: impl Into<Stdio>) -> (Program, String) {
    let port = free_port().to_string();
    let listen = ["--http-host", "127.0.0.1", "--http-port", &port, "--drain-grace", "0"];
    let worker = ["--worker-url", "m=http://127.0.0.1:1"];
    let frontend = Program::start(FRONTEND, &[&listen[..], &worker].concat(), stderr);
    until("the frontend answers", || answers(&port));
    (frontend, port)
}

/// Whether a request gets an answer, if only that there is no such worker.
fn answers(port: &str) -> bool {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let body = serde_json::json!({"model": "m", "messages": []});
    let answer = agent.post(format!("http://127.0.0.1:{port}/v1/chat/completions")).send_json(body);
    answer.is_ok_and(|answer| answer.status().is_server_error())
}

#[test]
fn a_frontend_whose_log_has_no_reader_any_more_serves_and_ends_well() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let (frontend, port) = frontend(writer);
    assert!(answers(&port));
    assert_eq!(frontend.end(), Some(0));
}

#[test]
fn a_frontend_whose_log_nobody_reads_serves_and_ends_well() {
    let (mut reader, writer) = pipe().unwrap();
    let (frontend, port) = frontend(writer);
    // More lines than any pipe takes.
    for _ in 0..500 {
        assert!(answers(&port));
    }
    assert_eq!(frontend.end(), Some(0));
    let mut log = Vec::new();
    reader.read_to_end(&mut log).unwrap();
    assert!(log.len() > 60 << 10, "the pipe, of 64 KiB, was full: {}", log.len());
}

#[test]
fn a_worker_whose_log_goes_nowhere_ends_well() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let url = ["--url", "http://127.0.0.1:1", "--etcd-endpoints", "http://127.0.0.1:1"];
    let script = "trap 'exit 3' TERM; echo up > \"$0\"; while :; do sleep 0.05; done";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("up");
    let command = ["--", "/bin/sh", "-c", script, file.to_str().unwrap()];
    let worker = Program::start(WORKER, &[&url[..], &command].concat(), full());
    until("the engine has started", || file.exists());
    assert_eq!(worker.end(), Some(3));
}

#[test]
fn the_lines_before_an_error_are_written_and_the_error_is_the_last() {
    let ended = finish(FRONTEND, &["--http-port", "1", "--http-host", "192.0.2.1"], &[]);
    assert_eq!(ended.code, 1);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: cannot listen on 192.0.2.1:1"), "{ended:?}");
    assert!(ended.stderr.contains("starting"), "what was logged before is written: {ended:?}");
}
