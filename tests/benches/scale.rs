//! What many entries and many events cost a frontend, each beside a raw figure of the same run.
//!
//! `cargo xtask bench discovery --scale` runs it and names the etcd, whose `models/` it empties.
#![expect(clippy::print_stdout, reason = "the tables are its output")]

use std::{error::Error, fs, time::Duration, time::Instant};

use dynamo_discovery::{InstanceId, Kind, Kinds, ModelEntry, ModelKey};
use dynamo_tests::{Client as HttpClient, Engine, Program};
use etcd_client::{Client, DeleteOptions, GetOptions, Txn, TxnOp};
use tokio::time::{MissedTickBehavior, interval};

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROOT: &str = "models/";
/// How many operations etcd takes in one transaction.
const TRANSACTION: usize = 128;
/// How many rounds a figure is the median of.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> Outcome<()> {
    let etcd = std::env::var("DYN_TEST_ETCD_ENDPOINTS").map_err(
        |_| "DYN_TEST_ETCD_ENDPOINTS names no etcd; run `cargo xtask bench discovery --scale`",
    )?;
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let runs = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut store = Store { client: Client::connect([etcd.as_str()], None).await?, etcd };
    if runs("ready") {
        ready(&mut store).await?;
    }
    if runs("storm") {
        storm(&mut store).await?;
    }
    if runs("events") {
        events(&mut store).await?;
    }
    if runs("foreign") {
        foreign(&mut store).await?;
    }
    store.empty().await
}

/// The etcd, as a writer and a reader see it without us.
struct Store {
    client: Client,
    etcd: String,
}

impl Store {
    async fn empty(&mut self) -> Outcome<()> {
        self.client.delete(ROOT, Some(DeleteOptions::new().with_prefix())).await?;
        Ok(())
    }

    async fn put(&mut self, entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> Outcome<()> {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let some = entries.by_ref().take(TRANSACTION);
            let puts: Vec<_> = some.map(|(key, value)| TxnOp::put(key, value, None)).collect();
            self.client.txn(Txn::new().and_then(puts)).await?;
        }
        Ok(())
    }

    /// Everything, in pages of one size at one revision.
    async fn read(&self, page: i64) -> Outcome<usize> {
        let mut start = ROOT.as_bytes().to_vec();
        let (mut count, mut revision) = (0, 0);
        let mut client = self.client.kv_client().max_decoding_message_size(64 << 20);
        loop {
            let options = GetOptions::new().with_range("models0").with_limit(page);
            let mut page = client.get(start, Some(options.with_revision(revision))).await?;
            if revision == 0 {
                revision = page.header().ok_or("no header")?.revision();
            }
            let entries = page.take_kvs();
            count += entries.len();
            match entries.last() {
                Some(last) if page.more() => start = [last.key(), &[0]].concat(),
                _ => return Ok(count),
            }
        }
    }

    /// A frontend that is ready; how long that took from its start.
    async fn frontend(&self, arguments: &[&str]) -> (Program, HttpClient, Duration) {
        let began = Instant::now();
        let (frontend, client) =
            Program::frontend(&self.etcd, arguments, &[("DYN_LOG", "info")]).await;
        while client.get("/ready").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (frontend, client, began.elapsed())
    }
}

/// An entry of about 300 bytes, key included.
fn entry(namespace: &str, model: &str, number: usize) -> (String, Vec<u8>) {
    let url = format!("http://10.{}.{}.{}:8000", number >> 16, number >> 8 & 0xff, number & 0xff);
    entry_at(namespace, model, number, &url)
}

fn entry_at(namespace: &str, model: &str, number: usize, url: &str) -> (String, Vec<u8>) {
    let endpoint = || format!("{namespace}.backend.generate").parse().unwrap_or_else(bug);
    let kinds: Kinds = [Kind::Chat, Kind::Completions].into_iter().collect();
    let entry = ModelEntry::new(model, endpoint(), kinds)
        .unwrap_or_else(bug)
        .with_url(url.parse().unwrap_or_else(bug))
        .with_created(1_790_000_000)
        .with_context_length(32_768);
    let instance = format!("{number:x}").parse::<InstanceId>().unwrap_or_else(bug);
    let key = ModelKey::Native { endpoint: endpoint(), instance, model: model.to_owned() };
    (format!("{ROOT}{key}"), entry.to_json().to_vec())
}

fn bug<T>(error: impl std::fmt::Display) -> T {
    panic!("an entry of this bench is invalid: {error}")
}

/// What a process holds, and has held at most, in MB.
fn memory(program: &Program) -> Outcome<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id()))?;
    let field = |name: &str| -> Outcome<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no field")?;
        Ok(kilobytes.parse::<f64>()? / 1e3)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// From the start of a frontend until it is ready, beside a bare list of the same entries: in the
/// pages of 5000 that are usual, to which the ratio is, and in pages as large as ours get.
async fn ready(store: &mut Store) -> Outcome<()> {
    const ENTRIES: usize = 100_000;
    println!("{ENTRIES} entries: until ready, median of {ROUNDS}");
    println!(
        "{:28} {:>9} {:>9} {:>9} {:>6} {:>8} {:>8}",
        "", "raw 5k", "raw 20k", "ready", "ratio", "RSS MB", "peak MB"
    );
    for (what, models) in [("1000 models, 100 of each", 1000), ("100000 models", ENTRIES)] {
        store.empty().await?;
        store
            .put((0..ENTRIES).map(|n| entry("team-a", &format!("org/model-{}", n % models), n)))
            .await?;
        let mut raw = [5_000, 20_000].map(|page| (page, vec![]));
        let (mut ours, mut rss, mut peak) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            for (page, raw) in &mut raw {
                let began = Instant::now();
                assert_eq!(store.read(*page).await?, ENTRIES);
                raw.push(began.elapsed().as_secs_f64());
            }
            let (frontend, _, took) = store.frontend(&["--namespace", "team-a"]).await;
            ours.push(took.as_secs_f64());
            let (now, most) = memory(&frontend)?;
            rss.push(now);
            peak.push(most);
        }
        let [raw, large] = raw.map(|(_, raw)| median(raw));
        let (ours, rss, peak) = (median(ours), median(rss), median(peak));
        println!(
            "{what:28} {raw:7.3} s {large:7.3} s {ours:7.3} s {:6.2} {rss:8.0} {peak:8.0}",
            ours / raw
        );
    }
    Ok(())
}

/// How long after a storm of puts a frontend knows the last of them.
async fn storm(store: &mut Store) -> Outcome<()> {
    const PUTS: usize = 32_000;
    store.empty().await?;
    let (frontend, client, _) = store.frontend(&["--namespace", "team-a"]).await;
    let began = Instant::now();
    store.put((0..PUTS).map(|n| entry("team-a", &format!("model-{}", n % 1000), n))).await?;
    store.put([entry("team-a", "last", PUTS)]).await?;
    let (put, done) = (began.elapsed(), Instant::now());
    while client.get("/v1/models/last").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = PUTS as f64 / put.as_secs_f64();
    println!(
        "\n{PUTS} puts in {:.2} s ({rate:.0}/s): known {:.3} s after the last; peak {:.0} MB",
        put.as_secs_f64(),
        done.elapsed().as_secs_f64(),
        memory(&frontend)?.1
    );
    Ok(())
}

/// Requests through a frontend whose namespace changes 5000 times a second, beside one that watches
/// another namespace's keys only.
async fn events(store: &mut Store) -> Outcome<()> {
    const PER_SECOND: usize = 5000;
    const TICK: Duration = Duration::from_millis(10);
    const SECONDS: u64 = 10;
    store.empty().await?;
    let engine = Engine::start("bench").await;
    for namespace in ["team-a", "team-b"] {
        store.put([entry_at(namespace, "served", 1, engine.url())]).await?;
    }
    let (affected, busy, _) = store.frontend(&["--namespace", "team-a"]).await;
    let key = ["--namespace", "team-b", "--watch-scope", "key"];
    let (unaffected, quiet, _) = store.frontend(&key).await;

    let mut writer = Store { client: store.client.clone(), etcd: store.etcd.clone() };
    let writes = tokio::spawn(async move {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        let mut written = 0_usize;
        while began.elapsed() < Duration::from_secs(SECONDS) {
            ticks.tick().await;
            // Every entry changes each time: its URL does.
            let due = PER_SECOND * TICK.as_millis() as usize / 1000;
            let entries = (written..written + due).map(|n| {
                let model = format!("model-{}", n % 1000);
                entry_at(
                    "team-a",
                    &model,
                    n % 10_000,
                    &format!("http://10.0.0.1:{}", 1 + n % 60_000),
                )
            });
            writer.put(entries).await.map_err(|error| error.to_string())?;
            written += due;
        }
        Ok::<_, String>(written as f64 / began.elapsed().as_secs_f64())
    });
    let (mut at_busy, mut at_quiet) = (vec![], vec![]);
    while !writes.is_finished() {
        for (client, samples) in [(&busy, &mut at_busy), (&quiet, &mut at_quiet)] {
            let began = Instant::now();
            assert_eq!(client.chat("served").await.status, 200);
            samples.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let rate = writes.await??;
    println!("\n{rate:.0} events/s, {} requests each, in turns; in ms", at_busy.len());
    let at = |samples: &mut Vec<f64>, percent: usize| {
        samples.sort_by(f64::total_cmp);
        samples[(samples.len() - 1) * percent / 100]
    };
    for (what, percent) in [("p50", 50), ("p99", 99)] {
        let (busy, quiet) = (at(&mut at_busy, percent), at(&mut at_quiet, percent));
        println!(
            "{what}: {busy:.3} where they are seen, {quiet:.3} where not: {:.2}",
            busy / quiet
        );
    }
    println!("peak {:.0} MB and {:.0} MB", memory(&affected)?.1, memory(&unaffected)?.1);
    Ok(())
}

/// What other namespaces cost one that watches its own keys.
async fn foreign(store: &mut Store) -> Outcome<()> {
    println!("\nforeign entries, with --watch-scope key: until ready, median of {ROUNDS}");
    store.empty().await?;
    store.put([entry("team-a", "own", 1)]).await?;
    let mut there = 0;
    for count in [1_000, 10_000, 100_000] {
        store.put((there..count).map(|n| entry("team-b", &format!("model-{n}"), n))).await?;
        there = count;
        let (mut took, mut rss) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            let arguments = ["--namespace", "team-a", "--watch-scope", "key"];
            let (frontend, client, ready) = store.frontend(&arguments).await;
            assert_eq!(client.models().await, ["own"]);
            took.push(ready.as_secs_f64() * 1e3);
            rss.push(memory(&frontend)?.0);
        }
        println!("{count:7}: {:6.1} ms, {:4.1} MB", median(took), median(rss));
    }
    Ok(())
}
