//! Who etcd and its clients take each other for: the names in their certificates.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{
    ClientIdentity, Credentials, EtcdConfig, EtcdStore, KeyRange, LeaseStore as _, StoreError, Tls,
    WatchStore as _,
};
use dynamo_tests::{Certificates, Etcd, Program, Users, lists};

const TEAM_A: [&str; 2] = ["--namespace", "team-a"];

/// Someone without a password, who shows this certificate.
fn by_certificate(etcd: &Etcd, certificates: &Certificates, name: &str) -> EtcdStore {
    let key = certificates.path(&format!("{name}-key"));
    let client = ClientIdentity::new(certificates.path(name), key);
    let tls = Tls::new().with_ca(certificates.path("ca")).with_client(client);
    EtcdStore::new(EtcdConfig::new([etcd.secure_endpoint()]).with_tls(tls)).unwrap()
}

/// An etcd with authentication, over TLS, whose gateway is on or off.
async fn etcd_with(certificates: &Certificates, gateway: bool) -> (Etcd, Users) {
    let mut arguments = certificates.etcd_arguments();
    arguments.push(format!("--enable-grpc-gateway={gateway}"));
    let mut etcd = Etcd::prepare_secure(arguments);
    etcd.launch().await;
    let mut users = Users::enable(&etcd).await;
    users.add("reader").await;
    users.grant("reader", "models/", false).await;
    for name in ["reader", "root", "stranger"] {
        certificates.certify(name, name, &[]);
    }
    (etcd, users)
}

#[tokio::test]
async fn a_certificate_alone_is_the_user_of_its_common_name_with_the_gateway_and_without() {
    for gateway in [true, false] {
        let certificates = Certificates::new();
        let (etcd, _users) = etcd_with(&certificates, gateway).await;
        let range = KeyRange::prefix("models/");
        let put = async |store: &EtcdStore| {
            let lease = store.grant(Duration::from_secs(10)).await?.id;
            store.put(&"models/a".into(), Bytes::from_static(b"x"), lease).await
        };
        let reader = by_certificate(&etcd, &certificates, "reader");
        reader.list(&range).await.unwrap();
        assert!(matches!(put(&reader).await, Err(StoreError::Denied(_))));
        let root = by_certificate(&etcd, &certificates, "root");
        put(&root).await.unwrap();
        let stranger = by_certificate(&etcd, &certificates, "stranger");
        assert!(matches!(stranger.list(&range).await, Err(StoreError::Denied(_))));
    }
}

#[tokio::test]
async fn a_user_with_a_password_is_that_user_whatever_the_certificate_says() {
    let certificates = Certificates::new();
    let (etcd, _users) = etcd_with(&certificates, false).await;
    let key = certificates.path("root-key");
    let tls = Tls::new()
        .with_ca(certificates.path("ca"))
        .with_client(ClientIdentity::new(certificates.path("root"), key));
    let config = EtcdConfig::new([etcd.secure_endpoint()])
        .with_tls(tls)
        .with_credentials(Credentials::new("reader", "reader"));
    let store = EtcdStore::new(config).unwrap();
    store.list(&KeyRange::prefix("models/")).await.unwrap();
    let beyond = store.list(&KeyRange::prefix("elsewhere/")).await;
    assert!(matches!(beyond, Err(StoreError::Denied(_))), "root could read it: {beyond:?}");
}

#[tokio::test]
async fn a_server_is_known_by_the_name_that_it_is_reached_at_and_not_by_another() {
    let certificates = Certificates::new();
    certificates.certify("server", "server", &["localhost"]);
    let mut etcd = Etcd::prepare_secure(certificates.etcd_arguments());
    etcd.launch().await;
    let [ca, cert, key] = ["ca", "client", "client-key"].map(|name| certificates.file(name));
    let files = ["--etcd-ca", &ca, "--etcd-client-cert", &cert, "--etcd-client-key", &key];
    let arguments = [&TEAM_A[..], &files].concat();

    let by_name = etcd.secure_endpoint().replace("127.0.0.1", "localhost");
    let (_frontend, client) = Program::frontend(&by_name, &arguments, &[]).await;
    let _worker = Program::worker(&by_name, &[&arguments[..], &["--model", "m"]].concat(), &[]);
    lists(&client, &["m"]).await;

    let by_address = etcd.secure_endpoint();
    let (frontend, _) = Program::frontend(by_address, &arguments, &[]).await;
    let said = frontend.says("store unavailable, retrying; what is known stays in service").await;
    let error = said["error"].as_str().unwrap();
    assert!(error.contains(by_address) && error.contains("certificate not valid"), "{error}");
}
