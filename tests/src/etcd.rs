//! An etcd of one node that a test may stop, wipe, restore and compact.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::soon;

/// An etcd as a child process. Its ports stay the same over restarts; a test may delete its data.
pub struct Etcd {
    endpoint: String,
    peer: String,
    /// The `https` URL, if the etcd listens for TLS.
    secure: Option<String>,
    binary: PathBuf,
    arguments: Vec<String>,
    directory: TempDir,
    process: Option<Child>,
}

/// The etcd that all tests share: the given one, else an etcd that lives for as long as a test of
/// this process uses it.
#[derive(Clone)]
pub struct SharedEtcd {
    endpoints: String,
    _own: Option<Arc<Etcd>>,
}

impl SharedEtcd {
    /// Finds or starts the shared etcd.
    pub async fn find() -> Self {
        static OWN: Mutex<Weak<Etcd>> = Mutex::const_new(Weak::new());
        let given = env::var("DYN_TEST_ETCD_ENDPOINTS").unwrap_or_default();
        if !given.trim().is_empty() {
            return Self { endpoints: given, _own: None };
        }
        let mut own = OWN.lock().await;
        let etcd = match own.upgrade() {
            Some(etcd) => etcd,
            None => {
                let etcd = Arc::new(Etcd::start().await);
                *own = Arc::downgrade(&etcd);
                etcd
            }
        };
        Self { endpoints: etcd.endpoint.clone(), _own: Some(etcd) }
    }

    /// The etcd's URLs, separated by commas.
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }
}

impl Etcd {
    /// Starts an etcd, and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts an etcd with further arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        // The port may be taken between the choice and the start.
        for _ in 0..5 {
            let mut etcd = Self::prepare();
            etcd.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
            etcd.spawn();
            if etcd.answers().await {
                return etcd;
            }
        }
        panic!("etcd does not start")
    }

    /// An etcd that is not started.
    ///
    /// # Panics
    ///
    /// When there is no binary.
    pub fn prepare() -> Self {
        let binary = binary().expect(
            "no etcd: run `cargo xtask itest`, which finds or fetches one, or set ETCD_BIN to the \
             path of its binary",
        );
        Self {
            endpoint: format!("http://127.0.0.1:{}", free_port()),
            peer: format!("http://127.0.0.1:{}", free_port()),
            secure: None,
            binary,
            arguments: Vec::new(),
            directory: tempfile::Builder::new().prefix("dyn-etcd-").tempdir().unwrap(),
            process: None,
        }
    }

    /// An etcd that also listens for TLS, with these files; it is not started.
    pub fn prepare_secure(arguments: Vec<String>) -> Self {
        let mut etcd = Self::prepare();
        etcd.secure = Some(format!("https://127.0.0.1:{}", free_port()));
        etcd.arguments = arguments;
        etcd
    }

    /// The URL for its peers.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Sets the further arguments, which the next start uses.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// From now on it joins a cluster that is there.
    pub(crate) fn join(&mut self) {
        self.arguments.push("--initial-cluster-state=existing".to_owned());
    }

    /// Its URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its `https` URL.
    ///
    /// # Panics
    ///
    /// When the etcd has no `https` URL.
    pub fn secure_endpoint(&self) -> &str {
        self.secure.as_deref().expect("an etcd that listens for TLS")
    }

    /// Starts the etcd, again or for the first time, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When the etcd ends before it answers.
    pub async fn launch(&mut self) {
        self.spawn();
        assert!(self.answers().await, "etcd ended at once: {}", self.log());
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When the binary cannot be executed.
    pub fn spawn(&mut self) {
        let listen = self.endpoint.clone() + ",";
        let listen = listen + self.secure.as_deref().unwrap_or_default();
        let listen = listen.trim_end_matches(',');
        let log = File::create(self.directory.path().join("log")).unwrap();
        let mut command = Command::new(&self.binary);
        command
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", listen, "--advertise-client-urls", &self.endpoint])
            .args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer]);
        // A member of a cluster has these arguments already.
        if !self.arguments.iter().any(|argument| argument == "--name") {
            let alone = format!("test={}", self.peer);
            command.args(["--name", "test", "--initial-cluster", &alone]);
        }
        let process = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Waits until the etcd answers; `false` if it ends before that.
    pub async fn answers(&mut self) -> bool {
        soon("an answer from etcd", async {
            // A linearizable read, since it needs a leader. "Permission denied" is an answer, too. Not by
            // the JSON gateway, which a test may turn off.
            let options = ConnectOptions::new().with_timeout(Duration::from_secs(10));
            let client = Client::connect([&self.endpoint], Some(options)).await.unwrap();
            while let Err(error) = client.kv_client().get([0], None).await {
                if error.to_string().contains("user name is empty") {
                    break;
                }
                if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                sleep(Duration::from_millis(20)).await;
            }
            true
        })
        .await
    }

    /// Starts something else that the same binary is, such as `grpc-proxy start`, before this etcd,
    /// and returns it with its URL when it takes connections.
    ///
    /// # Panics
    ///
    /// When it cannot be executed.
    pub async fn start_before(&self, command: &[&str]) -> (Before, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let directory = tempfile::Builder::new().prefix("dyn-etcd-").tempdir().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let process = Command::new(&self.binary)
            .args(command)
            .args(["--listen-addr", &address])
            .arg(format!("--endpoints={}", self.endpoint.trim_start_matches("http://")))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let before = Before { process, _directory: directory };
        soon("what stands before etcd listens", async {
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        (before, format!("http://{address}"))
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends SIGTERM, and waits for the end of the process.
    ///
    /// # Panics
    ///
    /// When the process does not run.
    pub async fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let mut process = self.process.take().unwrap();
        tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap();
    }

    /// Sends SIGKILL, and deletes the data.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// Keeps a copy of the data; the process must not run.
    pub fn save(&self) {
        assert!(self.process.is_none(), "data that changes cannot be copied");
        copy_tree(&self.data(), &self.saved());
    }

    /// Sends SIGKILL, and replaces the data by the saved copy.
    pub fn restore(&mut self) {
        self.wipe();
        copy_tree(&self.saved(), &self.data());
    }

    /// Sends SIGSTOP: process and connections stay, and do nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Compacts the history up to the current revision.
    pub async fn compact(&self) {
        let any = self.ask("kv/range", &json!({ "key": "AA==" })).await.unwrap();
        let revision = any["header"]["revision"].clone();
        let compaction = json!({ "revision": revision, "physical": true });
        self.ask("kv/compaction", &compaction).await.unwrap();
    }

    /// Ends a lease while its owner lives.
    pub async fn revoke(&self, lease: &str) {
        self.ask("lease/revoke", &json!({ "ID": lease })).await.unwrap();
    }

    /// The ids of all leases.
    pub async fn leases(&self) -> Vec<String> {
        let answer = self.ask("lease/leases", &json!({})).await.unwrap();
        let leases = answer["leases"].as_array().map(Vec::as_slice).unwrap_or_default();
        leases.iter().map(|lease| lease["ID"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether the node takes itself for the leader; a node may be wrong about that.
    pub(crate) async fn leads(&self) -> bool {
        let status = self.ask("maintenance/status", &json!({})).await.unwrap_or_default();
        let leader = &status["leader"];
        leader.is_string() && *leader == status["header"]["member_id"]
    }

    /// Sends a request to etcd's JSON gateway, for operations that our traits lack.
    ///
    /// # Errors
    ///
    /// The error's text.
    pub async fn ask(&self, call: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}/v3/{call}", self.endpoint);
        // A stalled node accepts connections and does not answer.
        let request = reqwest::Client::new().post(url).json(body).timeout(Duration::from_secs(10));
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let (status, text) = (answer.status(), answer.text().await);
        let text = text.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn saved(&self) -> PathBuf {
        self.directory.path().join("saved")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process before an etcd. Dropped, it is killed.
pub struct Before {
    process: Child,
    _directory: TempDir,
}

impl Before {
    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A free port below the ephemeral range: while a server is down, a connection could take an
/// ephemeral port of that server, and a client that connects there could even reach itself. No other
/// call in this process returns the same port.
///
/// # Panics
///
/// When no port is free.
pub fn free_port() -> u16 {
    static GIVEN: std::sync::Mutex<BTreeSet<u16>> = std::sync::Mutex::new(BTreeSet::new());
    let free = |port: &u16| {
        std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()
            && GIVEN.lock().unwrap().insert(*port)
    };
    std::iter::repeat_with(|| fastrand::u16(15_000..32_000)).find(free).unwrap()
}

/// The binary: `ETCD_BIN`, else `etcd` from the `PATH`, else the one that `cargo xtask itest` has
/// fetched.
fn binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("ETCD_BIN").filter(|named| !named.is_empty()) {
        return Some(named.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let fetched = target.join("tools/etcd-server/usr/bin/etcd");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("etcd"));
    on_path.chain([fetched]).find(|binary| binary.is_file())
}
