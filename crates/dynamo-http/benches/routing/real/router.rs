//! The routers under test: programs that stand before the engines.

use std::error::Error;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client;

/// How long a router may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// A router by its program.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A `dynamo-frontend` in a mode; without one, an older one in the mode that is its default.
    Frontend { program: PathBuf, mode: Option<String> },
    /// SGLang's model gateway with its defaults, among them the policy `cache_aware`: the directory of
    /// its Python packages.
    Smg { packages: PathBuf },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend { mode, .. } => f.write_str(mode.as_deref().unwrap_or("before")),
            Self::Smg { .. } => f.write_str("smg cache_aware"),
        }
    }
}

/// A router that serves, until it is dropped.
pub(super) struct Router {
    pub(super) address: SocketAddr,
    child: Child,
}

impl Router {
    /// Starts one before the engines with these URLs, and returns when it serves their model.
    pub(super) async fn start(kind: &Kind, engines: &[String]) -> Result<Self, Box<dyn Error>> {
        let [port, metrics] = free_ports()?;
        let mut command = match kind {
            Kind::Frontend { program, mode } => {
                let mut command = Command::new(program);
                command.args(["--http-host", "127.0.0.1", "--http-port", &port.to_string()]);
                let workers = engines.iter().map(|url| format!("{}={url}", client::MODEL));
                command.args(workers.flat_map(|worker| ["--worker-url".to_owned(), worker]));
                command.args(mode.iter().flat_map(|mode| ["--router-mode", mode]));
                command.env("DYN_LOG", "error");
                command
            }
            Kind::Smg { packages } => {
                let mut command = Command::new("python3");
                command.env("PYTHONPATH", packages).args(["-m", "smg", "launch"]);
                command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
                command.args(["--prometheus-port", &metrics.to_string()]);
                command.args(["--backend", "vllm", "--policy", "cache_aware"]);
                command.args(["--disable-tokenizer-autoload", "--log-level", "error"]);
                command.arg("--worker-urls").args(engines);
                command
            }
        };
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| {
                format!("cannot start {}: {error}", command.get_program().display())
            })?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut router = Self { address, child };
        let began = Instant::now();
        while !client::serves(address).await {
            if let Some(status) = router.child.try_wait()? {
                return Err(format!("{kind} ended: {status}").into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{kind} does not serve").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(router)
    }

    /// The seconds of CPU time that it has used.
    pub(super) fn cpu(&self) -> Result<f64, Box<dyn Error>> {
        /// Linux counts in hundredths of a second everywhere.
        const TICKS: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, which may contain anything, ends at the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody listens on.
fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
