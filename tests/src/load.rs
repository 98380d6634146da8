//! Requests that flow during a fault.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Answer, Client, reaches};

/// Requests to one model, whose answers are counted.
pub struct Load {
    answered: watch::Receiver<u64>,
    failures: Arc<Mutex<Vec<Answer>>>,
    _clients: JoinSet<()>,
}

/// The state that all clients share.
#[derive(Clone)]
struct Asking {
    client: Client,
    model: String,
    answered: watch::Sender<u64>,
    failures: Arc<Mutex<Vec<Answer>>>,
}

impl Asking {
    async fn once(&self) {
        let answer = self.client.chat(&self.model).await;
        if answer.status != 200 {
            self.failures.lock().unwrap().push(answer);
        }
        self.answered.send_modify(|count| *count += 1);
    }
}

impl Load {
    /// Starts clients that send without a pause, each as soon as it has its answer.
    pub fn on(client: &Client, model: &str, clients: usize) -> Self {
        let (asking, mut load) = Self::new(client, model);
        for _ in 0..clients {
            let asking = asking.clone();
            load._clients.spawn(async move {
                loop {
                    asking.once().await;
                }
            });
        }
        load
    }

    /// Starts this number of requests a second, whether or not earlier ones have been answered.
    pub fn paced(client: &Client, model: &str, per_second: u64) -> Self {
        let (asking, mut load) = Self::new(client, model);
        load._clients.spawn(async move {
            let mut clients = JoinSet::new();
            let mut ticks = interval(Duration::from_nanos(1_000_000_000 / per_second));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let asking = asking.clone();
                clients.spawn(async move { asking.once().await });
                while clients.try_join_next().is_some() {}
            }
        });
        load
    }

    fn new(client: &Client, model: &str) -> (Asking, Self) {
        let (count, answered) = watch::channel(0);
        let failures = Arc::<Mutex<Vec<Answer>>>::default();
        let asking = Asking {
            client: client.clone(),
            model: model.to_owned(),
            answered: count,
            failures: failures.clone(),
        };
        (asking, Self { answered, failures, _clients: JoinSet::new() })
    }

    /// Waits until so many more requests were answered, well or not.
    pub async fn flows(&self, more: u64) {
        let enough = *self.answered.borrow() + more;
        reaches("answers", enough, async || *self.answered.borrow()).await;
    }

    /// The answers so far that were not 200.
    pub fn failures(&self) -> Vec<Answer> {
        self.failures.lock().unwrap().clone()
    }
}
