//! Programs as processes: started with a clean environment, watched by what they log.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "it is a test")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const FRONTEND: &str = env!("CARGO_BIN_EXE_dynamo-frontend");
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_dynamo-worker");
pub(crate) const WORKER_CONFIG: &str = env!("CARGO_BIN_EXE_dynamo-worker-config");

/// Nothing here takes long; machines that are busy do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A free port for a program. It is below the ephemeral range, so that no connection and no listener
/// takes it before the program does, and no other call in this process returns it.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(15_000..32_000))
        .find(|port| is_free(port) && GIVEN.lock().unwrap().insert(*port))
        .unwrap()
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; -1 for a signal.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end.
pub(crate) fn finish(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    Running::start(program, arguments, environment).end()
}

/// Runs a program that reads something to its end.
pub(crate) fn finish_with(program: &str, arguments: &[&str], stdin: &str) -> Ended {
    let mut running = Running::begin(program, arguments, &[], Stdio::piped());
    let mut pipe = running.child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    running.end()
}

/// A running program; it is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    logged: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::begin(program, arguments, environment, Stdio::null())
    }

    fn begin(
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        stdin: Stdio,
    ) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            // For the scripts that stand for engines.
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let logged = Arc::new(Mutex::new(String::new()));
        let (mut stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let lines = Arc::clone(&logged);
        let readers = vec![
            thread::spawn(move || {
                let mut text = String::new();
                stdout.read_to_string(&mut text).unwrap();
                text
            }),
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines() {
                    let mut logged = lines.lock().unwrap();
                    logged.push_str(&line.unwrap());
                    logged.push('\n');
                }
                String::new()
            }),
        ];
        Self { child, logged, readers }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr by now.
    pub(crate) fn logged(&self) -> String {
        self.logged.lock().unwrap().clone()
    }

    /// The first line on stderr that contains a text, once it is there.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let mut found = None;
        until(&format!("{text:?} is logged"), || {
            found = self.logged().lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    /// The value of a field of a log line, once that is there.
    pub(crate) fn wait_for_field(&self, text: &str, field: &str) -> String {
        let line = self.wait_for(text);
        let value = line.split_once(&format!("{field}=")).map(|(_, value)| value).unwrap();
        value.split(' ').next().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let signal = match name {
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "HUP" => Signal::HUP,
            "USR1" => Signal::USR1,
            other => panic!("no such signal: {other}"),
        };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let mut status = None;
        until("the program has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let texts: Vec<_> = self.readers.drain(..).map(|reader| reader.join().unwrap()).collect();
        let code = status.and_then(|status| status.code()).unwrap_or(-1);
        Ended { code, stdout: texts.concat(), stderr: self.logged() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("logged by process {}:\n{}", self.child.id(), self.logged());
        }
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A client that takes an error's status as an answer.
pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// The status and the whole body of an answer.
pub(crate) fn get(url: &str) -> (u16, String) {
    let mut answer = agent().get(url).call().unwrap();
    (answer.status().into(), answer.body_mut().read_to_string().unwrap())
}

/// The value of a series on a frontend's admin port, if it is there.
pub(crate) fn series(admin: &str, name: &str) -> Option<u64> {
    let page = get(&format!("{admin}/metrics")).1;
    let line = page.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

/// The value of a series that a frontend's admin port has.
pub(crate) fn sample(admin: &str, name: &str) -> u64 {
    series(admin, name).unwrap()
}

/// An echo engine with one model, and its URL.
pub(crate) fn echo_engine() -> (Running, String) {
    let nowhere = ["--etcd-endpoints", "http://127.0.0.1:1"];
    let echo = ["--echo", "--echo-delay-ms", "0", "--model", "m"];
    let worker = Running::start(WORKER, &[&echo[..], &nowhere].concat(), &[]);
    let url = worker.wait_for_field("the echo engine listens", "url");
    (worker, url)
}

/// A frontend that is ready, with one worker: the URLs of its main port and of its admin port.
pub(crate) fn ready_frontend(
    engine: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (Running, String, String) {
    let local = ["--http-host", "127.0.0.1", "--http-port", "0", "--admin-port", "0"];
    let rest = ["--worker-url", engine, "--drain-grace", "0"];
    let frontend = Running::start(FRONTEND, &[&local[..], &rest, arguments].concat(), variables);
    let url = |line| format!("http://{}", frontend.wait_for_field(line, "address"));
    let (admin, base) = (url("the admin port listens"), url(" listening "));
    until("the frontend is ready", || get(&format!("{admin}/ready")).0 == 200);
    (frontend, base, admin)
}

/// Whether a process runs; one that only waits to be reaped does not.
pub(crate) fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}
