//! A worker registers a model under a lease, changes it and withdraws it; two frontends watch.
//!
//! ```text
//! cargo run -p dynamo-discovery --example register
//! ```
//!
//! The store is the memory of this process. With etcd instead, put an `EtcdStore` where the
//! `MemoryStore` is: nothing else changes.

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{
    DiscoveryBatch, Kind, MemoryStore, ModelEntry, ModelUpdate, ModelWatcher, Registration,
    RegistrationConfig,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Arc::new(MemoryStore::new());

    // Two frontends, each of one team. The first batch of each says that there is no model yet.
    let mut team_a = ModelWatcher::watch(store.clone(), Some("team-a"))?;
    let mut team_b = ModelWatcher::watch(store.clone(), Some("team-b"))?;
    tell("team-a", &team_a.next_batch().await);
    tell("team-b", &team_b.next_batch().await);

    // A worker of team-a. A task renews its lease, and the entries end with the lease at the latest.
    let config = RegistrationConfig::new(store.clone()).with_ttl(Duration::from_secs(20));
    println!("team-a: a worker publishes my-model as instance {}", config.instance());
    let mine = entry("my-model", "team-a")?;
    let mut worker = Registration::publish(config, vec![mine.clone()]).await?;
    tell("team-a", &next_changes(&mut team_a).await);

    println!("team-a: the worker has learnt the model's context length");
    worker.update(vec![mine.with_context_length(32_768)]).await?;
    tell("team-a", &next_changes(&mut team_a).await);

    // The worker marks its entry before it deletes it, so the frontend knows that it did not die.
    println!("team-a: the worker withdraws");
    worker.withdraw().await?;
    tell("team-a", &next_changes(&mut team_a).await);

    // The frontend of team-b has seen none of this: its first change is the one by its own worker.
    println!("team-b: a worker publishes its-model");
    let config = RegistrationConfig::new(store);
    let worker = Registration::publish(config, vec![entry("its-model", "team-b")?]).await?;
    tell("team-b", &next_changes(&mut team_b).await);
    worker.withdraw().await?;
    Ok(())
}

fn entry(model: &str, namespace: &str) -> Result<ModelEntry, Box<dyn Error>> {
    let endpoint = format!("{namespace}.backend.generate").parse()?;
    let entry = ModelEntry::new(model, endpoint, Kind::Chat | Kind::Completions)?;
    Ok(entry.with_url("http://192.0.2.5:8001".parse()?))
}

/// The next batch that changes something. A batch of another team's entries does not.
async fn next_changes(watcher: &mut ModelWatcher) -> DiscoveryBatch {
    loop {
        let batch = watcher.next_batch().await;
        if !batch.updates.is_empty() {
            return batch;
        }
    }
}

fn tell(team: &str, batch: &DiscoveryBatch) {
    if batch.updates.is_empty() {
        println!("{team}: no model");
    }
    for update in &batch.updates {
        match update {
            ModelUpdate::Added(new) => {
                let url = new.url().map_or("no URL", |url| url.as_str());
                println!("{team}: added {} ({}) at {url}", new.model(), new.kinds());
            }
            ModelUpdate::Changed { new, .. } => {
                println!(
                    "{team}: changed {}, {:?} tokens",
                    new.model(),
                    new.entry().context_length()
                );
            }
            ModelUpdate::Removed(old, gone) => {
                println!("{team}: removed {}: {gone:?}", old.model())
            }
        }
    }
}
