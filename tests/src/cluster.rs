//! An etcd of three nodes on loopback; a test may stop each node.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use etcd_client::{Client, ClusterClient, ConnectOptions};
use tokio::time::sleep;

use crate::{Etcd, soon};

/// Three nodes. Functions take a node by its number, from 0.
pub struct Cluster([Etcd; 3]);

impl Cluster {
    /// Starts a cluster, and waits until each node answers.
    pub async fn start() -> Self {
        // A port may be taken between the choice and the start.
        for _ in 0..5 {
            let mut nodes = [Etcd::prepare(), Etcd::prepare(), Etcd::prepare()];
            let members: Vec<_> = (0..)
                .zip(&nodes)
                .map(|(number, node)| format!("n{number}={}", node.peer()))
                .collect();
            let members = members.join(",");
            for (number, node) in nodes.iter_mut().enumerate() {
                let arguments = ["--name", &format!("n{number}"), "--initial-cluster", &members];
                node.set_arguments(arguments.map(str::to_owned).to_vec());
                node.spawn();
            }
            let mut all = true;
            for node in &mut nodes {
                all &= node.answers().await;
            }
            if all {
                return Self(nodes);
            }
        }
        panic!("the cluster does not start")
    }

    /// The URLs of the nodes, separated by commas, beginning with this node's.
    pub fn endpoints_from(&self, first: usize) -> String {
        let nodes = self.0.iter().cycle().skip(first).take(self.0.len());
        nodes.map(Etcd::endpoint).collect::<Vec<_>>().join(",")
    }

    /// The node that leads now. The nodes in `but` are not asked: a stalled node does not answer.
    pub async fn leader(&self, but: &[usize]) -> usize {
        soon("a leader", async {
            loop {
                for number in (0..self.0.len()).filter(|number| !but.contains(number)) {
                    if self.0[number].leads().await {
                        return number;
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Replaces a node by a new member without data at the same addresses, as an operator does whose
    /// machine is gone.
    ///
    /// # Panics
    ///
    /// When it cannot be removed or added.
    pub async fn replace(&mut self, number: usize) {
        let peer = self.0[number].peer().to_owned();
        self.0[number].wipe();
        // etcd itself waits for ever for a change of members that was dropped for want of a leader.
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(2));
        let other = self.0[self.after(number)].endpoint();
        let others = Client::connect([other], Some(options)).await.unwrap();
        let mut others = others.cluster_client();
        let members = others.member_list().await.unwrap();
        let gone = members.members().iter().find(|member| member.peer_urls().contains(&peer));
        let gone = gone.unwrap().id();
        // While the others elect a leader they refuse, or do it and do not say so.
        let has = async |members: &ClusterClient, id: Option<u64>| {
            let members = members.clone().member_list().await.unwrap();
            let mut members = members.members().iter();
            members.any(|member| {
                member.peer_urls().contains(&peer) && id.is_none_or(|id| member.id() == id)
            })
        };
        soon("the removal of a member", async {
            while has(&others, Some(gone)).await {
                let _ = others.member_remove(gone).await;
                sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
        soon("a new member", async {
            while !has(&others, None).await {
                let _ = others.member_add([peer.clone()], None).await;
                sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
        self.0[number].join();
        self.0[number].launch().await;
    }

    /// The next node, which is another one.
    pub fn after(&self, node: usize) -> usize {
        (node + 1) % self.0.len()
    }
}

impl Index<usize> for Cluster {
    type Output = Etcd;

    fn index(&self, node: usize) -> &Etcd {
        &self.0[node]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, node: usize) -> &mut Etcd {
        &mut self.0[node]
    }
}
