//! Three nodes of etcd in containers, on networks from which a test can disconnect each node.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

use crate::{soon, unique};

/// The containers of `tests/compose-cluster.yaml`, under a project name of this test. The drop
/// removes the containers.
pub struct ComposeCluster {
    project: String,
    compose: &'static [&'static str],
    nodes: Vec<Container>,
}

struct Container {
    id: String,
    endpoint: String,
}

impl ComposeCluster {
    /// Starts the containers, and waits until each node answers.
    pub async fn up() -> Self {
        let spellings: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
        let mut compose = None;
        for spelling in spellings {
            if run(&[spelling, &["version"]].concat()).await.is_ok() {
                compose = Some(spelling);
                break;
            }
        }
        let compose = compose.expect("neither `docker compose` nor `docker-compose` is here");
        let mut cluster = Self { project: unique("dyn-partition"), compose, nodes: Vec::new() };
        cluster.compose(&["up", "--detach"]).await.unwrap();
        for node in ["n0", "n1", "n2"] {
            let id = cluster.compose(&["ps", "--quiet", node]).await.unwrap();
            let network = format!("{}_clients", cluster.project);
            let form = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
            let address = run(&["docker", "inspect", "--format", &form, &id]).await.unwrap();
            cluster.nodes.push(Container { id, endpoint: format!("http://{address}:2379") });
        }
        cluster.settles().await;
        cluster
    }

    /// Waits until each node answers a linearizable read; a node that returns causes an election.
    pub async fn settles(&self) {
        for node in 0..self.nodes.len() {
            soon("an answer from etcd", async {
                while self.ask(node, "kv/range", &json!({ "key": "AA==" })).await.is_none() {
                    sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
        }
    }

    /// The URLs of the nodes, separated by commas, beginning with this node's.
    pub fn endpoints_from(&self, first: usize) -> String {
        let nodes = self.nodes.iter().cycle().skip(first).take(self.nodes.len());
        nodes.map(|node| &*node.endpoint).collect::<Vec<_>>().join(",")
    }

    /// The node that leads now.
    pub async fn leader(&self) -> usize {
        soon("a leader", async {
            loop {
                for node in 0..self.nodes.len() {
                    let status = self.ask(node, "maintenance/status", &json!({})).await;
                    let status = status.unwrap_or_default();
                    let leader = &status["leader"];
                    if leader.is_string() && *leader == status["header"]["member_id"] {
                        return node;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }

    async fn ask(&self, node: usize, call: &str, body: &Value) -> Option<Value> {
        let url = format!("{}/v3/{call}", self.nodes[node].endpoint);
        let request = reqwest::Client::new().post(url).json(body);
        let answer = request.timeout(Duration::from_secs(5)).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// Takes a node out of the network of its peers: the test still reaches the node, which has no
    /// leader.
    pub async fn cut_from_peers(&self, node: usize) {
        self.network("disconnect", "peers", node, &[]).await;
    }

    /// Connects the node to its peers again.
    pub async fn join_peers(&self, node: usize) {
        // A container that is connected by hand has no alias in the network.
        self.network("connect", "peers", node, &["--alias", &format!("n{node}.peers")]).await;
    }

    /// Freezes a node: its process and its connections stay, and do nothing.
    pub async fn pause(&self, node: usize) {
        run(&["docker", "pause", &self.nodes[node].id]).await.unwrap();
    }

    /// Lets the node go on.
    pub async fn resume(&self, node: usize) {
        run(&["docker", "unpause", &self.nodes[node].id]).await.unwrap();
    }

    /// Takes a node out of both networks: no party reaches the node, and none gets a FIN or RST.
    pub async fn cut_off(&self, node: usize) {
        self.network("disconnect", "clients", node, &[]).await;
        self.cut_from_peers(node).await;
    }

    async fn network(&self, what: &str, network: &str, node: usize, options: &[&str]) {
        let network = format!("{}_{network}", self.project);
        let command = [&["docker", "network", what], options, &[&*network, &*self.nodes[node].id]];
        run(&command.concat()).await.unwrap();
    }

    async fn compose(&self, arguments: &[&str]) -> Result<String, String> {
        run(&[&self.command(), arguments].concat()).await
    }

    fn command(&self) -> Vec<&str> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/compose-cluster.yaml");
        [self.compose, &["--project-name", &self.project, "--file", file]].concat()
    }
}

impl Drop for ComposeCluster {
    fn drop(&mut self) {
        let command = self.command();
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "1"];
        let ended = std::process::Command::new(command[0])
            .args(&command[1..])
            .args(down)
            .stdin(Stdio::null())
            .output();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|output| output.status.success()), "{} stays", self.project);
        }
    }
}

async fn run(command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("{}: {error}", command[0]))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
