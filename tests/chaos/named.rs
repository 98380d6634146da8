//! A worker whose engine frontends reach by a name: what the name leads to, and who is there.
//!
//! The worker is beside its engine and reaches it at an address of its own, as a worker on the same
//! host does; so it notices nothing of what becomes of the name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use dynamo_tests::{NameServer, Program, Says, ScriptedEngine, eventually, free_port};
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep};

use crate::lodging::Bound;
use crate::plan::Naming;
use crate::stage::{FRONTENDS, NAMED, NAMED_MODEL, Stage, WORKERS, register};
use crate::traffic::{OURS, asks_at};

/// The name.
const NAME: &str = "gpu-7.example";

/// For how long prompts may follow a name to an address that it has left: its answer is valid for a
/// second, and names in use are looked up every 5 s, in a second or two.
const LEAVES: Duration = Duration::from_secs(8);

/// The network of this run, so that several runs on one machine do not meet: 127.A.B.0/24.
#[derive(Clone, Copy)]
struct Loopback(u8, u8);

impl Loopback {
    fn host(self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, host).into()
    }
}

/// The name, and the engine behind it.
pub struct Named {
    server: NameServer,
    resolv_conf: NamedTempFile,
    network: Loopback,
    port: u16,
    /// Where the name leads to: the last part of the address.
    host: u8,
    here: ScriptedEngine,
    /// The same engine, where its worker reaches it.
    beside: ScriptedEngine,
}

impl Named {
    /// Nobody's address.
    const DEAD: u8 = 2;
    /// The first address of the engine.
    const FIRST: u8 = 10;

    /// None where this machine lets nobody but root be a server of names.
    pub async fn set() -> Option<Self> {
        let network = Loopback(fastrand::u8(64..128), fastrand::u8(..));
        let says = Says::Has(vec![network.host(Self::FIRST)]);
        let server = NameServer::start_at(network.host(53), says).await.ok()?;
        let resolv_conf = NamedTempFile::new().unwrap();
        std::fs::write(&resolv_conf, server.resolv_conf()).unwrap();
        let beside = ScriptedEngine::start_at(loopback(free_port()), WORKERS[NAMED]).await;
        let port = beside.address().port();
        let address = SocketAddr::new(network.host(Self::FIRST), port);
        let here = ScriptedEngine::start_at(address, WORKERS[NAMED]).await;
        Some(Self { server, resolv_conf, network, port, host: Self::FIRST, here, beside })
    }

    /// What frontends read to learn who knows the name.
    pub fn resolv_conf(&self) -> &Path {
        self.resolv_conf.path()
    }

    /// The URL by which the engine is registered.
    pub fn url(&self) -> String {
        format!("http://{NAME}:{}", self.port)
    }

    /// Starts the worker.
    pub fn follow(&self, etcd: &str) -> Program {
        let (url, advertised) = (self.beside.url(), self.url());
        let control = ["--control-host", "127.0.0.1", "--advertise-url", &advertised];
        register(etcd, OURS, &url, &control)
    }

    fn says(&self, addresses: &[u8]) {
        let addresses = addresses.iter().map(|host| self.network.host(*host)).collect();
        self.server.says(Says::Has(addresses));
    }

    /// Starts the engine at another address, and returns what was at the one before.
    async fn open_elsewhere(&mut self) -> ScriptedEngine {
        // Strangers stay where they are.
        self.host = self.host.checked_add(1).expect("a run has few enough moves");
        let address = SocketAddr::new(self.network.host(self.host), self.port);
        let there = ScriptedEngine::start_at(address, WORKERS[NAMED]).await;
        std::mem::replace(&mut self.here, there)
    }

    /// Each frontend sends prompts to the engine, where the name leads to.
    async fn is_asked_by_all(&self, since: Instant) {
        eventually("each frontend asks the engine that has a name", async || {
            (0..FRONTENDS).all(|frontend| self.here.has_seen_since(since, &asks_at(frontend)))
        })
        .await;
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Whether anyone has a connection to an address, as the kernel says.
fn has_connections(address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else { unreachable!("an address of 127.0.0.0/8") };
    let to = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let established = "01";
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next() == Some(&to) && columns.next() == Some(established)
    })
}

impl Stage {
    /// The name of a worker's engine leads elsewhere, or nowhere for this time.
    pub async fn rename(&mut self, how: Naming, time: Duration) {
        let Some(mut named) = self.named.take() else { return };
        let began = Instant::now();
        match how {
            Naming::Moves { at_once, beside_a_dead_one } => {
                let mut left = named.open_elsewhere().await;
                if at_once {
                    self.traffic.worker_is_down(NAMED);
                    left.stop().await;
                }
                let dead = beside_a_dead_one.then_some(Named::DEAD);
                named.says(&Vec::from_iter(dead.into_iter().chain([named.host])));
                let bound = if at_once {
                    Bound::after(Instant::now(), LEAVES)
                } else {
                    // Until the last answer with the old address is no longer valid.
                    sleep(Duration::from_secs(NameServer::TTL.into()) + TICK).await;
                    let address = left.address();
                    eventually("frontends leave the address that a name has left", async || {
                        !has_connections(address)
                    })
                    .await;
                    left.stop().await;
                    Bound::none()
                };
                let stranger = ScriptedEngine::start_at(left.address(), WORKERS[NAMED]).await;
                self.strangers.move_in(stranger, None, bound);
                named.is_asked_by_all(began).await;
                if at_once {
                    self.expect(NAMED);
                }
            }
            Naming::Unknown => {
                self.traffic.worker_is_down(NAMED);
                named.server.says(Says::NoSuchName);
                sleep(time).await;
                named.says(&[named.host]);
                named.is_asked_by_all(Instant::now()).await;
                self.expect(NAMED);
            }
            Naming::Fails => {
                // Connections that are there serve on; a new one is the frontend's own trouble.
                let fails = |fails| {
                    let all = 0..FRONTENDS;
                    all.for_each(|one| self.traffic.is_short(one, Some(NAMED_MODEL), fails));
                };
                fails(true);
                named.server.says(Says::Fails);
                sleep(time).await;
                named.says(&[named.host]);
                fails(false);
            }
        }
        self.named = Some(named);
    }
}

/// More than it takes to send an answer that was being made.
const TICK: Duration = Duration::from_millis(200);
