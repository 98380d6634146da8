//! Requests that flow while something happens.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Answer, Client, eventually};

/// Clients that ask one model without a pause, each as soon as it has its answer.
pub struct Load {
    answered: watch::Receiver<usize>,
    failures: Arc<Mutex<Vec<Answer>>>,
    _clients: JoinSet<()>,
}

impl Load {
    /// Begins.
    #[must_use]
    pub fn on(client: &Client, model: &str, clients: usize) -> Self {
        let (count, answered) = watch::channel(0);
        let failures = Arc::<Mutex<Vec<Answer>>>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (client, model) = (client.clone(), model.to_owned());
            let (count, failures) = (count.clone(), failures.clone());
            tasks.spawn(async move {
                loop {
                    let answer = client.chat(&model).await;
                    if answer.status != 200 {
                        failures.lock().unwrap().push(answer);
                    }
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        Self { answered, failures, _clients: tasks }
    }

    /// Waits until so many more requests were answered, well or not.
    pub async fn flows(&self, more: usize) {
        let enough = *self.answered.borrow() + more;
        eventually("requests flow", async || *self.answered.borrow() >= enough).await;
    }

    /// The answers so far that were not 200.
    #[must_use]
    pub fn failures(&self) -> Vec<Answer> {
        self.failures.lock().unwrap().clone()
    }
}
