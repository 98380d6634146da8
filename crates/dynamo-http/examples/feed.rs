//! A feed keeps a switchboard current from a store, and a reader follows the routes that open and
//! close.
//!
//! ```text
//! cargo run -p dynamo-http --example feed
//! ```
//!
//! The store is the memory of this process. With etcd instead, put an `EtcdStore` where the
//! `MemoryStore` is: nothing else changes.

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::sync::Arc;

use dynamo_discovery::{
    Kind, Kinds, MemoryStore, ModelEntry, ModelWatcher, Registration, RegistrationConfig,
};
use dynamo_http::{Feed, RouteChange, Source, Switchboard};
use dynamo_namespace::NamespaceScope;
use futures_util::{Stream, StreamExt as _};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Arc::new(MemoryStore::new());
    let watcher = ModelWatcher::watch(store.clone(), Some("team-a"))?;

    // The feed's task has the one writer. Readers have the switchboard and take no lock.
    let scope = NamespaceScope::from_target(Some("team-a"))?;
    let (switchboard, writer) = Switchboard::new([scope.clone()]);
    let feed = Feed::new(writer, [Source::new("memory", watcher.into_stream())]);
    let status = feed.status();
    let feed = tokio::spawn(feed.run());

    // Until the source has said once what there is, "closed" means "not known yet".
    let mut changes = switchboard.changes().boxed();
    switchboard.ready().await?;
    let source = &status.sources()[0];
    println!("ready: the source {} is at revision {:?}", source.name(), source.revision());

    println!("a worker of team-a registers a model for embeddings");
    let config = RegistrationConfig::new(store);
    let mut worker = Registration::publish(config, vec![entry(Kind::Embedding.into())?]).await?;
    tell(&mut changes, 1).await;

    println!("the model serves completions as well");
    worker.update(vec![entry(Kind::Embedding | Kind::Completions)?]).await?;
    tell(&mut changes, 1).await;
    for model in switchboard.view(&scope).models() {
        let urls: Vec<_> = model.urls(Kind::Completions).map(|url| url.as_str()).collect();
        println!("  {} serves {} at {}", model.name(), model.kinds(), urls.join(", "));
    }

    println!("the worker withdraws");
    worker.withdraw().await?;
    tell(&mut changes, 2).await;

    // The writer goes with the feed, and the stream of changes ends with the writer.
    feed.abort();
    assert_eq!(changes.next().await, None);
    println!("the feed has ended");
    Ok(())
}

fn entry(kinds: Kinds) -> Result<ModelEntry, Box<dyn Error>> {
    let entry = ModelEntry::new("my-model", "team-a.backend.generate".parse()?, kinds)?;
    Ok(entry.with_url("http://192.0.2.5:8001".parse()?))
}

async fn tell(changes: &mut (impl Stream<Item = RouteChange> + Unpin), count: usize) {
    for _ in 0..count {
        let Some(change) = changes.next().await else { return };
        let state = if change.open { "opened" } else { "closed" };
        println!("  {} {state} for {}", change.route.path(), change.scope);
    }
}
