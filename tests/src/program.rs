//! The real binaries, with their logs captured.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::watch;

use crate::{Client, soon};

/// How many of the last log lines of each program a failed test shows.
const SHOWN: usize = 200;

/// A running program of ours, whose environment has only the variables of the test. Its drop kills
/// the program.
pub struct Program {
    name: String,
    child: Child,
    stdout: ChildStdout,
    lines: Arc<Mutex<Vec<String>>>,
    grown: watch::Receiver<()>,
    /// Whether the log is read.
    reads: watch::Sender<bool>,
}

impl Program {
    /// Starts a program that logs as JSON.
    ///
    /// # Panics
    ///
    /// When the binary is missing.
    pub fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let variables = [&[("DYN_LOGGING_JSONL", "1")], variables].concat();
        let mut child = tokio::process::Command::new(Self::path(name))
            .args(arguments)
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = child.stdout.take().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (growth, grown) = watch::channel(());
        let (reads, reading) = watch::channel(true);
        tokio::spawn(collect(child.stderr.take().unwrap(), lines.clone(), growth, reading));
        Self { name: name.to_owned(), child, stdout, lines, grown, reads }
    }

    /// The path of a binary, for tests that start the program by other means.
    pub fn path(name: &str) -> PathBuf {
        directory().join(name)
    }

    /// Starts a frontend on a free port, and returns when it listens.
    pub async fn frontend(
        etcd: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (Self, Client) {
        let listen = ["--http-host", "127.0.0.1", "--http-port", "0", "--etcd-endpoints", etcd];
        let arguments = [&listen, arguments].concat();
        let frontend = Self::start("dynamo-frontend", &arguments, variables);
        let address = frontend.says("listening").await["address"].as_str().unwrap().to_owned();
        (frontend, Client::new(&format!("http://{address}")))
    }

    /// A client of the admin port of a frontend that was started with `--admin-port`.
    pub async fn admin(&self) -> Client {
        let line = self.says("the admin port listens").await;
        Client::new(&format!("http://{}", line["address"].as_str().unwrap()))
    }

    /// Starts a worker with an echo engine.
    pub fn worker(etcd: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let echo = ["--echo", "--echo-delay-ms", "1", "--etcd-endpoints", etcd];
        Self::start("dynamo-worker", &[&echo, arguments].concat(), variables)
    }

    /// Starts a worker with an echo engine, and waits until the worker knows that it is registered.
    ///
    /// A frontend lists the models before that, while etcd's answer to the worker is still under way.
    /// A fault that came then would take this answer, and the registration would not be counted.
    pub async fn registered(etcd: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let worker = Self::worker(etcd, arguments, variables);
        worker.says("registered").await;
        worker
    }

    /// All log lines of the program.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The log lines with this message, as JSON.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.log().into_iter().filter_map(|line| serde_json::from_str(&line).ok());
        lines.filter(|line: &Value| line["message"] == message).collect()
    }

    /// Waits for a log line with this message.
    pub async fn says(&self, message: &str) -> Value {
        self.says_times(message, 1).await
    }

    /// Waits until this message was logged `times` times, and returns the last of these lines.
    pub async fn says_times(&self, message: &str, times: usize) -> Value {
        let mut grown = self.grown.clone();
        let said = async {
            loop {
                grown.mark_unchanged();
                if let Some(line) = self.logged(message).into_iter().nth(times - 1) {
                    return line;
                }
                if grown.changed().await.is_err() {
                    panic!("it ended without saying {message:?}: {:#?}", self.log());
                }
            }
        };
        soon(message, said).await
    }

    /// Waits for a log line with this message, which must be the only one so far.
    pub async fn says_once(&self, message: &str) -> Value {
        let line = self.says(message).await;
        assert_eq!(self.logged(message).len(), 1, "{message:?} was logged more than once");
        line
    }

    /// Stops reading the program's log, and fills its pipe: the next line that it writes waits.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    pub async fn stall_log(&self) {
        self.reads.send_replace(false);
        let stderr = format!("/proc/{}/fd/2", self.id());
        let pipe = tokio::net::unix::pipe::OpenOptions::new().open_sender(stderr).unwrap();
        pipe.writable().await.unwrap();
        // Empty lines are no lines of JSON. A pipe takes a small write whole, or not at all.
        for piece in [&[b'\n'; 4096][..], b"\n"] {
            while pipe.try_write(piece).is_ok() {}
        }
    }

    /// Reads the program's log again.
    pub fn read_log(&self) {
        self.reads.send_replace(true);
    }

    /// The id of the process.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits until the program ends, and returns its exit code, if it has one, and its stdout.
    pub async fn ended(&mut self) -> (Option<i32>, String) {
        soon("the end of a program", async {
            let mut printed = String::new();
            self.stdout.read_to_string(&mut printed).await.unwrap();
            let code = self.child.wait().await.unwrap().code();
            // The log is complete when no process holds its pipe.
            while self.grown.changed().await.is_ok() {}
            (code, printed)
        })
        .await
    }
}

/// A failed test shows what its programs have logged: a failure that does not come again tells nothing
/// else.
impl Drop for Program {
    #[expect(clippy::print_stdout, reason = "the output of a test that fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.log();
            let left_out = lines.len().saturating_sub(SHOWN);
            let ended = self.child.try_wait();
            println!("{} ({ended:?}) has logged, and {left_out} lines before:", self.name);
            for line in &lines[left_out..] {
                println!("  {line}");
            }
        }
    }
}

async fn collect(
    stderr: impl AsyncRead + Unpin,
    lines: Arc<Mutex<Vec<String>>>,
    growth: watch::Sender<()>,
    mut reading: watch::Receiver<bool>,
) {
    let mut read = BufReader::new(stderr).lines();
    // Without the program's value, nobody stalls the log any more.
    let mut go = async || drop(reading.wait_for(|reads| *reads).await);
    loop {
        go().await;
        let Ok(Some(line)) = read.next_line().await else { return };
        if !line.is_empty() {
            lines.lock().unwrap().push(line);
            growth.send_replace(());
        }
    }
}

/// The directory of the binaries; without `DYN_TEST_BIN_DIR`, the binaries are built.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match env::var_os("DYN_TEST_BIN_DIR") {
        Some(given) if !given.is_empty() => given.into(),
        _ => build(),
    })
}

fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "-p", "dynamo-cli", "--bins", "--message-format=json"])
        .stderr(Stdio::inherit());
    // The variables that describe this package would make cargo build ring again, and once more
    // for the next call without them.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "the binaries do not build");
    let messages = String::from_utf8_lossy(&built.stdout);
    let binary = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    binary.as_deref().and_then(Path::parent).expect("cargo names the binaries").to_owned()
}
