//! TLS, users and roles at etcd: what they let in, what they keep out, and what happens when a
//! token, a role or an authority ends. Rows 36 to 38 of the table of faults in docs/testing.md.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use dynamo_discovery::{Cursor, EtcdConfig, EtcdStore, KeyRange, WatchItem, WatchStore as _};
use dynamo_tests::invariants::{assert_serves, assert_within};
use dynamo_tests::{
    Certificates, Client, Etcd, Frontend, Load, Network, Program, Space, Users, connected,
    eventually, lists, soon,
};
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep};

/// What is logged when the store is there and says no.
const DENIED: &str = "the store denies access, retrying; what is known stays in service";

/// What is logged when it does not answer.
const STORE_GONE: &str = "store unavailable, retrying; what is known stays in service";

const TEAM_A: [&str; 2] = ["--namespace", "team-a"];

async fn denied(client: &Client, denied: bool) {
    let wanted = f64::from(u8::from(denied));
    eventually("access is denied or not", async || {
        client.metric("dynamo_frontend_discovery_denied").await == wanted
    })
    .await;
}

/// An etcd that listens for TLS and asks for a client's certificate.
async fn secure_etcd(certificates: &Certificates) -> Etcd {
    let mut etcd = Etcd::prepare_secure(certificates.etcd_arguments());
    etcd.launch().await;
    etcd
}

fn secure(etcd: &Etcd, certificates: &Certificates) -> EtcdConfig {
    EtcdConfig::new([etcd.secure_endpoint()]).with_tls(certificates.tls())
}

#[tokio::test]
async fn frontend_and_worker_meet_over_mutual_tls() {
    let certificates = Certificates::new();
    let etcd = secure_etcd(&certificates).await;
    let [ca, cert, key] = ["ca", "client", "client-key"].map(|name| certificates.file(name));
    let files = ["--etcd-ca", &ca, "--etcd-client-cert", &cert, "--etcd-client-key", &key];
    let arguments = [&TEAM_A[..], &files].concat();
    let (_frontend, client) = Program::frontend(etcd.secure_endpoint(), &arguments, &[]).await;
    let arguments = [&arguments[..], &["--model", "m"]].concat();
    let _worker = Program::worker(etcd.secure_endpoint(), &arguments, &[]);
    lists(&client, &["m"]).await;
    assert_eq!(client.chat("m").await.status, 200);
}

#[tokio::test]
async fn who_shows_no_certificate_or_trusts_another_authority_is_told_so_once() {
    let certificates = Certificates::new();
    let etcd = secure_etcd(&certificates).await;
    let others = Certificates::new();
    let (ca, other_ca) = (certificates.file("ca"), others.file("ca"));
    // Who asked for our certificate and got none closes the connection, and no more can be known.
    for (ca, expected) in [(&ca, ""), (&other_ca, "invalid peer certificate")] {
        let arguments = [&TEAM_A[..], &["--etcd-ca", ca]].concat();
        let (frontend, client) = Program::frontend(etcd.secure_endpoint(), &arguments, &[]).await;
        let said = frontend.says(STORE_GONE).await;
        let error = said["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        // Several attempts.
        sleep(Duration::from_secs(2)).await;
        assert_eq!(frontend.logged(STORE_GONE).len(), 1);
        assert_eq!(client.get("/ready").await.status, 503);
    }
}

#[tokio::test]
async fn a_rotated_authority_is_taken_up_without_a_restart() {
    let (theirs, ours) = (Certificates::new(), Certificates::new());
    ours.copy_from(&theirs);
    let mut etcd = secure_etcd(&theirs).await;
    let space = Space::by(secure(&etcd, &ours)).await;
    let _worker = space.worker("team-a", "m").await;
    let watched = space.watch_with(secure(&etcd, &ours), "team-a");
    let frontend = Frontend::start(watched).await.ready().await;
    connected(&frontend, true).await;
    let load = Load::on(&frontend, "m", 2);

    // etcd is the first to have the new ones; ours are those of an authority that is gone.
    let killed = Instant::now();
    etcd.kill();
    theirs.rotate();
    etcd.launch().await;
    connected(&frontend, false).await;
    // Several attempts.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(frontend.metric("dynamo_frontend_discovery_connected").await, 0.0);
    assert_serves(&load).await;

    ours.copy_from(&theirs);
    let rotated = Instant::now();
    let again = frontend.witness().resumed_after(killed).await;
    assert_within(
        "38",
        "watching again after the files changed",
        Duration::from_secs(5),
        again - rotated,
    );
    let space = Space::by(secure(&etcd, &ours)).await;
    let _late = space.worker("team-a", "late").await;
    lists(&frontend, &["late", "m"]).await;
    frontend.witness().agrees(async || space.list().await).await;
    frontend.witness().assert_nothing_removed();
    assert_serves(&load).await;
}

#[tokio::test]
async fn a_role_for_one_namespace_is_enough_with_a_watch_by_key_and_what_misses_else_is_said() {
    let etcd = Etcd::start().await;
    let mut users = Users::enable(&etcd).await;
    for (name, write) in [("frontend-a", false), ("worker-a", true)] {
        users.add(name).await;
        users.grant(name, "models/team-a/", write).await;
    }
    let user = |name| [("ETCD_AUTH_USERNAME", name), ("ETCD_AUTH_PASSWORD", name)];
    let by_key = [&TEAM_A[..], &["--watch-scope", "key"]].concat();
    let (narrow, client) = Program::frontend(etcd.endpoint(), &by_key, &user("frontend-a")).await;
    let worker = [&TEAM_A[..], &["--model", "m"]].concat();
    let _worker = Program::worker(etcd.endpoint(), &worker, &user("worker-a"));
    lists(&client, &["m"]).await;
    assert_eq!(client.chat("m").await.status, 200);
    assert_eq!(narrow.logged(DENIED).len(), 0);

    let (wide, client) = Program::frontend(etcd.endpoint(), &TEAM_A, &user("frontend-a")).await;
    let said = wide.says(DENIED).await;
    assert_eq!(said["level"], "ERROR");
    assert_eq!(said["error"], "the store denied access: etcdserver: permission denied");
    assert_eq!(
        said["needs"],
        "read permission for the keys from models/ to models0; with the watch scope `key` only \
         from models/team-a/ to models/team-a0"
    );
    denied(&client, true).await;
    assert_eq!(client.get("/ready").await.status, 503);
    // A neighbour's worker cannot write here.
    let intruder = ["--namespace", "team-b", "--model", "x"];
    let intruder = Program::worker(etcd.endpoint(), &intruder, &user("worker-a"));
    let refused = intruder.says("cannot register, trying again until it works").await;
    assert!(refused["error"].as_str().unwrap().contains("permission denied"), "{refused}");
    // One line each, however often they tried.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(wide.logged(DENIED).len(), 1);
}

#[tokio::test]
async fn a_wrong_password_and_none_at_all_are_told_apart_from_a_store_that_is_away() {
    let etcd = Etcd::start().await;
    let _users = Users::enable(&etcd).await;
    let wrong = [("ETCD_AUTH_USERNAME", "root"), ("ETCD_AUTH_PASSWORD", "wrong")];
    for (variables, expected) in
        [(&wrong[..], "authentication failed"), (&[], "user name is empty")]
    {
        let (frontend, _) = Program::frontend(etcd.endpoint(), &TEAM_A, variables).await;
        let said = frontend.says(DENIED).await;
        assert!(said["error"].as_str().unwrap().contains(expected), "{said}");
    }
}

#[tokio::test]
async fn an_expired_token_costs_a_new_watch_no_more_than_a_new_token() {
    // Longer than one call takes on any machine, or the users could not be made.
    let etcd = Etcd::start_with(&["--auth-token-ttl", "3"]).await;
    let mut users = Users::enable(&etcd).await;
    users.add("frontend-a").await;
    users.grant("frontend-a", "models/", false).await;
    let store = EtcdStore::new(users.config("frontend-a")).unwrap();
    let range = KeyRange::prefix("models/");
    let revision = store.list(&range).await.unwrap().revision;
    let cursor = Cursor { revision, anchor: None };
    let _first = store.watch(&range, &cursor).await.unwrap();
    // A simple token lives for its time after its last use.
    sleep(Duration::from_secs(6)).await;
    let began = Instant::now();
    let mut second = store.watch(&range, &cursor).await.unwrap();
    assert_within("36", "a watch with an expired token", Duration::from_secs(1), began.elapsed());
    // etcd says of such a watch that it is created and canceled, and is silent from then on: one
    // who does not look at the second would wait for ever.
    let root = Space::by(users.config("root")).await;
    root.put("a", "value").await;
    let item = soon("the change", async {
        loop {
            match second.next().await {
                Some(Ok(WatchItem::Alive)) => {}
                item => return item,
            }
        }
    });
    assert!(matches!(item.await, Some(Ok(WatchItem::Batch { .. }))));
    sleep(Duration::from_secs(6)).await;
    let began = Instant::now();
    store.list(&range).await.unwrap();
    assert_within("36", "a list with an expired token", Duration::from_secs(1), began.elapsed());
}

#[tokio::test]
async fn a_revoked_role_is_told_and_stops_no_request_and_a_granted_one_is_enough_again() {
    let etcd = Etcd::start().await;
    let mut users = Users::enable(&etcd).await;
    let space = Space::by(users.config("root")).await;
    let _worker = space.worker("team-a", "m").await;
    users.add("frontend-a").await;
    users.grant("frontend-a", "models/", false).await;
    let network = Network::to(etcd.endpoint()).await;
    let user = [("ETCD_AUTH_USERNAME", "frontend-a"), ("ETCD_AUTH_PASSWORD", "frontend-a")];
    let (frontend, client) = Program::frontend(network.endpoint(), &TEAM_A, &user).await;
    lists(&client, &["m"]).await;
    connected(&client, true).await;
    denied(&client, false).await;
    let load = Load::on(&client, "m", 2);

    // An open watch lives on: it is the next one that is denied.
    users.revoke("frontend-a", "models/").await;
    network.cut();
    connected(&client, false).await;
    network.heal();
    let healed = Instant::now();
    denied(&client, true).await;
    assert_within("37", "told", Duration::from_secs(2), healed.elapsed());
    assert_eq!(frontend.says(DENIED).await["level"], "ERROR");
    let _late = space.worker("team-a", "late").await;
    assert_serves(&load).await;
    assert_eq!(client.get("/ready").await.status, 200);
    assert_eq!(client.models().await, ["m"], "what was known stands");

    users.grant("frontend-a", "models/", false).await;
    let granted = Instant::now();
    lists(&client, &["late", "m"]).await;
    assert_within("37", "good again", Duration::from_secs(2), granted.elapsed());
    denied(&client, false).await;
    assert_eq!(frontend.logged(DENIED).len(), 1);
    assert_serves(&load).await;
}
