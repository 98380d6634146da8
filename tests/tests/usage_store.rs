//! Frontends that share what keys have used: killed, stopped, cut off from etcd, with keys that rotate.
//! "Frontends that count together" in docs/testing.md.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_discovery::{EtcdConfig, EtcdStore, UsageGroup, UsageTally, WatchStore as _};
use dynamo_http::KeyHash;
use dynamo_tests::{Answer, Client, Etcd, Network, Program, Users, becomes, eventually, soon};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

const OLD: &str = "the-old-key-of-team-a-that-nobody-guesses";
const NEW: &str = "the-new-key-of-team-a-that-nobody-guesses";
/// The tokens of a request: the echo engine counts three words on each side.
const TOKENS: u64 = 6;
const LIMIT: u64 = 100_000;

/// A file of keys.
struct Keys {
    _directory: TempDir,
    path: PathBuf,
}

impl Keys {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let keys = Self { _directory: directory, path };
        keys.write(&[OLD], LIMIT);
        keys
    }

    /// One key, which all of these are, with this limit a day.
    fn write(&self, keys: &[&str], limit: u64) {
        let hashes: Vec<_> = keys.iter().map(|key| KeyHash::of(key).unwrap().to_string()).collect();
        let keys = json!([{
            "name": "team-a", "hash": hashes, "namespace": "team-a", "tokens_per_day": limit,
        }]);
        let next = self.path.with_extension("next");
        std::fs::write(&next, keys.to_string()).unwrap();
        std::fs::rename(next, &self.path).unwrap();
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// A frontend that counts with others.
struct Counting {
    program: Program,
    client: Client,
    admin: Client,
}

impl Counting {
    async fn start(etcd: &str, keys: &Path) -> Self {
        let keys = keys.to_str().unwrap();
        let arguments = ["--namespace", "team-a", "--api-keys", keys, "--admin-port", "0"];
        let shares = ["--usage-store", "etcd", "--drain-grace", "0"];
        let arguments = [&arguments[..], &shares].concat();
        let (program, client) = Program::frontend(etcd, &arguments, &[]).await;
        let admin = program.admin().await;
        let counting = Self { program, client, admin };
        eventually("the worker serves", async || counting.ask(OLD).await.status == 200).await;
        counting
    }

    /// Asks with a key. A request that succeeds costs [`TOKENS`].
    async fn ask(&self, key: &str) -> Answer {
        let message = json!([{"role": "user", "content": "one two three"}]);
        let body = json!({"model": "m", "messages": message, "max_tokens": 3});
        self.client.with_key(key).post("/v1/chat/completions", &body).await
    }

    /// Asks so often, and returns how many tokens that used.
    async fn use_up(&self, key: &str, times: u64) -> u64 {
        for _ in 0..times {
            assert_eq!(self.ask(key).await.status, 200);
        }
        times * TOKENS
    }

    /// What the key has used today, as this frontend sees it.
    async fn used(&self, limit: u64) -> u64 {
        let left = self.admin.metric("dynamo_frontend_key_limit_remaining_ratio").await;
        ((1.0 - left) * limit as f64).round() as u64
    }

    async fn connected(&self) -> bool {
        self.admin.metric("dynamo_frontend_usage_store_connected").await == 1.0
    }

    async fn frontends(&self) -> f64 {
        self.admin.metric("dynamo_frontend_usage_store_frontends").await
    }

    /// How many frontends placement counts with.
    async fn counted_with(&self) -> f64 {
        self.admin.metric("dynamo_frontend_placement_frontends").await
    }
}

/// What the store has of the key's tokens in this window.
async fn stored(store: &EtcdStore, day: bool) -> u64 {
    let group = UsageGroup::new(&"models/".parse().unwrap(), &"team-a".parse().unwrap());
    let listed = store.list(&group.range()).await.unwrap();
    let tally = UsageTally::of(&group, &listed.entries);
    let windows = tally.windows().filter(|window| (window.len() == 10) == day);
    let sums = windows.map(|window| tally.sums(window).get("team-a").copied().unwrap_or_default());
    sums.map(|[input, output]| input + output).sum()
}

#[tokio::test]
async fn the_sum_never_shrinks_and_has_nothing_twice_whatever_becomes_of_the_frontends() {
    let etcd = Etcd::start().await;
    let _worker =
        Program::registered(etcd.endpoint(), &["--namespace", "team-a", "--model", "m"], &[]).await;
    let store = Arc::new(EtcdStore::new(EtcdConfig::new([etcd.endpoint()])).unwrap());
    let keys = Keys::new();
    let network = Network::to(etcd.endpoint()).await;
    let one = Counting::start(etcd.endpoint(), &keys.path).await;
    let two = Counting::start(network.endpoint(), &keys.path).await;

    // Whoever looks at the store sees a sum that grows, and never more than was used. A request is in
    // `most` before it is sent.
    let most = Arc::new(AtomicU64::new(1000));
    let witness = tokio::spawn({
        let (store, most) = (store.clone(), most.clone());
        async move {
            let mut before = 0;
            loop {
                let now = stored(&store, true).await;
                assert!(now >= before, "the sum shrank from {before} to {now}");
                assert!(now <= most.load(Ordering::SeqCst), "more than was used: {now}");
                before = now;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    });

    // Both have asked once, to see that they serve.
    let mut used = 2 * TOKENS;
    used += one.use_up(OLD, 10).await + two.use_up(OLD, 10).await;
    most.store(used, Ordering::SeqCst);
    for frontend in [&one, &two] {
        becomes("both see all", used, async || frontend.used(LIMIT).await).await;
        eventually("both live", async || frontend.frontends().await == 2.0).await;
        eventually("placement counts both", async || frontend.counted_with().await == 2.0).await;
    }

    // Stopped, until nobody takes it for living.
    two.program.signal(Signal::STOP);
    most.store(used + 5 * TOKENS, Ordering::SeqCst);
    used += one.use_up(OLD, 5).await;
    eventually("the stopped one is missed", async || one.frontends().await == 1.0).await;
    eventually("placement misses it", async || one.counted_with().await == 1.0).await;
    two.program.signal(Signal::CONT);
    eventually("it is back", async || one.frontends().await == 2.0).await;
    becomes("it has caught up", used, async || two.used(LIMIT).await).await;

    // Cut off from etcd: both go on alone, and count together again afterwards.
    network.cut();
    eventually("it is cut off", async || !two.connected().await).await;
    assert_eq!((two.frontends().await, two.counted_with().await), (2.0, 2.0), "known last");
    most.store(used + 10 * TOKENS, Ordering::SeqCst);
    let alone = two.use_up(OLD, 5).await;
    assert_eq!(two.used(LIMIT).await, used + alone);
    used += alone + one.use_up(OLD, 5).await;
    network.heal();
    for frontend in [&one, &two] {
        becomes("both see all again", used, async || frontend.used(LIMIT).await).await;
    }

    // The key rotates, and stays one key: by both hashes, and by the new one.
    keys.write(&[OLD, NEW], LIMIT);
    eventually("both keys are good", async || one.ask(NEW).await.status == 200).await;
    used += TOKENS;
    most.store(used + 2 * TOKENS, Ordering::SeqCst);
    keys.write(&[NEW], LIMIT);
    eventually("the old key is gone", async || {
        // Until then it is good, and counts.
        let answer = one.ask(OLD).await;
        if answer.status == 200 {
            most.fetch_add(TOKENS, Ordering::SeqCst);
        }
        answer.status == 401
    })
    .await;
    used += one.use_up(NEW, 2).await;
    eventually("the other frontend has learned it", async || two.used(LIMIT).await >= used).await;

    // Killed: what it had written stays, and the interval that it had not is lost.
    let written = two.used(LIMIT).await;
    most.fetch_add(100 * TOKENS, Ordering::SeqCst);
    one.use_up(NEW, 3).await;
    one.program.signal(Signal::KILL);
    let kept = stored(&store, true).await;
    assert!((written..=written + 3 * TOKENS).contains(&kept), "{written}, then {kept}");
    becomes("the dead one's counts stay", kept, async || two.used(LIMIT).await).await;
    drop(one);

    // One that starts reads what was used before it asks for anything.
    let (program, client) = {
        let arguments = ["--namespace", "team-a", "--api-keys", keys.path(), "--admin-port", "0"];
        let shares = ["--usage-store", "etcd", "--drain-grace", "0"];
        Program::frontend(etcd.endpoint(), &[&arguments[..], &shares].concat(), &[]).await
    };
    let admin = program.admin().await;
    let mut three = Counting { program, client, admin };
    becomes("it begins with what was used", kept, async || three.used(LIMIT).await).await;
    eventually("it serves", async || three.client.with_key(NEW).get("/ready").await.status == 200)
        .await;
    // One that ends writes its last counts.
    let last = three.use_up(NEW, 2).await;
    three.program.signal(Signal::TERM);
    assert_eq!(three.program.ended().await.0, Some(0));
    assert_eq!(stored(&store, true).await, kept + last);
    assert_eq!(stored(&store, false).await, kept + last, "the month has the same");
    becomes("and the others see them", kept + last, async || two.used(LIMIT).await).await;

    assert!(!witness.is_finished(), "{:?}", soon("the witness's failure", witness).await);
    witness.abort();
    let usage = Program::path("dynamo-models");
    let output = std::process::Command::new(usage)
        .args(["usage", "--namespace", "team-a", "--etcd-endpoints", etcd.endpoint()])
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let total = (kept + last).to_string();
    assert_eq!(shown.matches(&total).count(), 2, "{total} in {shown}");
}

#[tokio::test]
async fn no_more_passes_a_limit_than_the_others_had_not_told() {
    let etcd = Etcd::start().await;
    let _worker =
        Program::registered(etcd.endpoint(), &["--namespace", "team-a", "--model", "m"], &[]).await;
    let keys = Keys::new();
    let limit = 20 * TOKENS;
    keys.write(&[OLD], limit);
    let one = Counting::start(etcd.endpoint(), &keys.path).await;
    let two = Counting::start(etcd.endpoint(), &keys.path).await;
    let both = 2 * TOKENS;
    for frontend in [&one, &two] {
        becomes("both begin alike", both, async || frontend.used(limit).await).await;
    }
    // Each uses what it can before the next word of the other.
    let until_refused = async |frontend: &Counting| {
        let mut used = 0;
        loop {
            let answer = frontend.ask(OLD).await;
            if answer.status != 200 {
                assert_eq!((answer.status, answer.code().as_str()), (429, "insufficient_quota"));
                return used;
            }
            used += TOKENS;
        }
    };
    let (by_one, by_two) = tokio::join!(until_refused(&one), until_refused(&two));
    // What a frontend has settled itself never passes the limit; all that passes it is what the other
    // one had not told.
    assert!(both + by_one <= limit && both + by_two <= limit, "{by_one}, {by_two}");
    let all = both + by_one + by_two;
    assert!(all >= limit - TOKENS * 2, "what was left could be used: {all}");
    let seen = all.min(limit);
    for frontend in [&one, &two] {
        becomes("both see what all used", seen, async || frontend.used(limit).await).await;
        assert_eq!(frontend.ask(OLD).await.code(), "insufficient_quota");
    }
}

#[tokio::test]
async fn a_role_for_its_own_group_is_enough_and_without_one_a_frontend_counts_alone() {
    let etcd = Etcd::start().await;
    let _worker =
        Program::registered(etcd.endpoint(), &["--namespace", "team-a", "--model", "m"], &[]).await;
    let mut users = Users::prepare(&etcd).await;
    for name in ["frontend", "narrow"] {
        users.add(name).await;
        users.grant(name, "models/", false).await;
    }
    users.grant("frontend", "usage/team-a/", true).await;
    users.grant("narrow", "usage/other/", true).await;
    users.switch_on().await;
    let keys = Keys::new();
    let start = async |user: &str| {
        let arguments = ["--namespace", "team-a", "--api-keys", keys.path(), "--admin-port", "0"];
        let shares = ["--usage-store", "etcd", "--etcd-username", user];
        let arguments = [&arguments[..], &shares].concat();
        let variables = [("ETCD_AUTH_PASSWORD", user)];
        let (program, client) = Program::frontend(etcd.endpoint(), &arguments, &variables).await;
        let admin = program.admin().await;
        let counting = Counting { program, client, admin };
        eventually("it serves", async || counting.ask(OLD).await.status == 200).await;
        counting
    };
    let (one, two) = (start("frontend").await, start("frontend").await);
    for frontend in [&one, &two] {
        becomes("they count together", 2 * TOKENS, async || frontend.used(LIMIT).await).await;
    }
    let narrow = start("narrow").await;
    let said = narrow
        .program
        .says("the usage store was never read: this frontend counts alone, from nothing");
    assert!(said.await["error"].as_str().unwrap().contains("denied access"));
    narrow.program.says("the usage of keys cannot be written").await;
    assert_eq!(narrow.ask(OLD).await.status, 200);
    assert_eq!(narrow.used(LIMIT).await, 2 * TOKENS, "its own");
    assert_eq!(one.used(LIMIT).await, 2 * TOKENS);
}
