//! A put until the route is open, through all layers, beside a put until etcd's own event.
//!
//! `cargo xtask bench discovery` runs it and names the etcd.
#![expect(clippy::print_stdout, reason = "the table is its output")]

use std::{
    error::Error,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use dynamo_discovery::{
    EtcdConfig, EtcdStore, InstanceId, Kind, Kinds, ModelEntry, ModelKey, ModelWatcher,
    NetworkPrefix, WatcherConfig,
};
use dynamo_http::{Switchboard, SwitchboardWriter, update_http_endpoints};
use dynamo_namespace::NamespaceScope;
use etcd_client::{Client, WatchOptions, WatchStream};

const WARM_UP: usize = 200;
const SAMPLES: usize = 2000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoints = std::env::var("DYN_TEST_ETCD_ENDPOINTS")
        .map_err(|_| "DYN_TEST_ETCD_ENDPOINTS names no etcd; run `cargo xtask bench discovery`")?;
    let endpoints: Vec<String> = endpoints.split(',').map(Into::into).collect();
    let mut client = Client::connect(&endpoints, None).await?;
    let root = format!("bench-{}/", process::id());
    let key = ModelKey::Native {
        endpoint: "team-a.backend.generate".parse()?,
        instance: InstanceId::random(),
        model: "bench".into(),
    };
    let kinds = Kinds::from(Kind::Chat);
    let entry = ModelEntry::new("bench", "team-a.backend.generate".parse()?, kinds)?
        .with_url("http://127.0.0.1:8001".parse()?);
    let value = entry.to_json().to_vec();

    let raw_root = format!("{root}raw/");
    let mut raw =
        Raw(client.watch(raw_root.clone(), Some(WatchOptions::new().with_prefix())).await?);
    let mut ours = Ours::new(endpoints, format!("{root}models/").parse()?)?;
    // The empty list.
    ours.until(false).await;
    let raw_key = format!("{raw_root}{key}");
    let our_key = format!("{root}models/{key}");

    let mut samples = [const { Vec::new() }; 4];
    let [raw_put, our_put, raw_delete, our_delete] = &mut samples;
    // Interleaved, so that a slow disk hits both alike.
    for _ in 0..WARM_UP + SAMPLES {
        let began = Instant::now();
        let (put, seen) = tokio::join!(client.put(&*raw_key, &*value, None), raw.event());
        put?;
        raw_put.push(seen? - began);

        let began = Instant::now();
        let (put, open) = tokio::join!(client.put(&*our_key, &*value, None), ours.until(true));
        put?;
        our_put.push(open - began);

        let began = Instant::now();
        let (delete, seen) = tokio::join!(client.delete(&*raw_key, None), raw.event());
        delete?;
        raw_delete.push(seen? - began);

        let began = Instant::now();
        let (delete, closed) = tokio::join!(client.delete(&*our_key, None), ours.until(false));
        delete?;
        our_delete.push(closed - began);
    }

    println!("{SAMPLES} rounds, one watcher each, in ms and as a ratio to raw");
    println!("{:24} {:>8} {:>8} {:>8} {:>8}", "", "p50", "p99", "p50/raw", "p99/raw");
    let [raw_put, our_put, raw_delete, our_delete] =
        samples.each_ref().map(|all| Percentiles::of(all));
    row("put → etcd's event", &raw_put, &raw_put);
    row("put → route open", &our_put, &raw_put);
    row("delete → etcd's event", &raw_delete, &raw_delete);
    row("delete → route closed", &our_delete, &raw_delete);
    Ok(())
}

/// A bare watch.
struct Raw(WatchStream);

impl Raw {
    async fn event(&mut self) -> Result<Instant, Box<dyn Error>> {
        loop {
            let message = self.0.message().await?.ok_or("etcd ended the watch")?;
            if !message.events().is_empty() {
                return Ok(Instant::now());
            }
        }
    }
}

/// Everything between the store and a request's first question.
struct Ours {
    scope: NamespaceScope,
    watcher: ModelWatcher,
    writer: SwitchboardWriter,
    switchboard: Switchboard,
}

impl Ours {
    fn new(endpoints: Vec<String>, root: NetworkPrefix) -> Result<Self, Box<dyn Error>> {
        let store = EtcdStore::new(EtcdConfig::new(endpoints))?;
        let scope = NamespaceScope::from_target(Some("team-a"))?;
        let config = WatcherConfig::new(Arc::new(store))
            .with_target_namespace(scope.clone())
            .with_network_prefix(root);
        let (switchboard, writer) = Switchboard::new([scope.clone()]);
        Ok(Self { watcher: ModelWatcher::new(config)?, writer, switchboard, scope })
    }

    /// As the frontend's own task does it: batch, publication, view.
    async fn until(&mut self, open: bool) -> Instant {
        loop {
            let batch = self.watcher.next_batch().await;
            update_http_endpoints(&mut self.writer, &batch.updates);
            if self.switchboard.view(&self.scope).is_open(Kind::Chat) == open {
                return Instant::now();
            }
        }
    }
}

struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(samples: &[Duration]) -> Self {
        let mut measured = samples[WARM_UP..].to_vec();
        measured.sort_unstable();
        let at =
            |percent: usize| measured[(measured.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        Self { p50: at(50), p99: at(99) }
    }
}

fn row(what: &str, own: &Percentiles, raw: &Percentiles) {
    println!(
        "{what:24} {:8.3} {:8.3} {:8.2} {:8.2}",
        own.p50,
        own.p99,
        own.p50 / raw.p50,
        own.p99 / raw.p99
    );
}
