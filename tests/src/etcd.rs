//! An etcd that a test may stop, wipe and compact.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::soon;

/// An etcd of one node as a child process, with a port that stays and data that can go.
pub struct Etcd {
    endpoint: String,
    binary: PathBuf,
    directory: TempDir,
    process: Option<Child>,
}

/// The etcd that all tests share: the one that is given, else one that lives as long as any test of
/// this process uses it.
#[derive(Clone)]
pub struct SharedEtcd {
    endpoints: String,
    _own: Option<Arc<Etcd>>,
}

impl SharedEtcd {
    /// Finds or starts it.
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

    /// Its URLs, separated by commas.
    #[must_use]
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }
}

impl Etcd {
    /// Starts one, and waits until it answers.
    pub async fn start() -> Self {
        // The port may be taken between the choice and the start.
        for _ in 0..5 {
            let mut etcd = Self::prepare();
            if etcd.try_launch().await {
                return etcd;
            }
        }
        panic!("etcd does not start")
    }

    /// One that is not started.
    ///
    /// # Panics
    ///
    /// When there is no binary.
    #[must_use]
    pub fn prepare() -> Self {
        let binary = binary().expect(
            "no etcd: run `cargo xtask itest`, which finds or fetches one, or set ETCD_BIN to the \
             path of its binary",
        );
        // Below the ports that connections take by themselves: while etcd is down, one could take
        // its port, and a client that connects to it could even reach itself.
        let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(|| fastrand::u16(15_000..32_000)).find(free).unwrap();
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            binary,
            directory: tempfile::Builder::new().prefix("dyn-etcd-").tempdir().unwrap(),
            process: None,
        }
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts it, again or for the first time, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub async fn launch(&mut self) {
        assert!(self.try_launch().await, "etcd ended at once: {}", self.log());
    }

    async fn try_launch(&mut self) -> bool {
        // Nobody else talks to it as a peer, so any port will do.
        let peer = "http://127.0.0.1:0";
        let log = File::create(self.directory.path().join("log")).unwrap();
        let process = Command::new(&self.binary)
            .args(["--name", "test", "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &self.endpoint])
            .args(["--advertise-client-urls", &self.endpoint])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        soon("an answer from etcd", async {
            // A linearizable read: it needs a leader.
            while self.ask("kv/range", &json!({ "key": "AA==" })).await.is_none() {
                if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                sleep(Duration::from_millis(20)).await;
            }
            true
        })
        .await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGKILL, and its data goes.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// SIGSTOP: it is there, and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Forgets the history up to now.
    pub async fn compact(&self) {
        let any = self.ask("kv/range", &json!({ "key": "AA==" })).await.unwrap();
        let revision = any["header"]["revision"].clone();
        let compaction = json!({ "revision": revision, "physical": true });
        self.ask("kv/compaction", &compaction).await.expect("a compaction");
    }

    /// Asks etcd's JSON gateway, which can do what our traits cannot.
    async fn ask(&self, call: &str, body: &Value) -> Option<Value> {
        let url = format!("{}/v3/{call}", self.endpoint);
        let answer = reqwest::Client::new().post(url).json(body).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `ETCD_BIN`, else the one on the path, else the one that `cargo xtask itest` has fetched.
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
