//! TLS on the listener, and to workers.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/http2.rs"]
mod http2;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Door, Worker, chat, instance, post, soon, whole};
use dynamo_http::{FrontendConfig, ServeOptions, ServerTls, TlsError, WorkerTls};
use hyper::client::conn::http2::Builder;
use hyper_util::rt::TokioExecutor;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CHAT: &str = "/v1/chat/completions";
const BOTH: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

/// An authority, and a place for what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::Builder::new().prefix("dynamo-tls-").tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate for this machine and its key, as PEM.
    fn sign(&self) -> (String, String) {
        let params = CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self) -> (ServerTls, String) {
        let (certificate, key) = self.sign();
        std::fs::write(self.path("tls.crt"), &certificate).unwrap();
        std::fs::write(self.path("tls.key"), key).unwrap();
        let tls = ServerTls::load(self.path("tls.crt"), self.path("tls.key")).unwrap();
        (tls, certificate)
    }

    async fn greet(
        &self,
        address: &str,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
    }

    /// The certificate that a new connection gets.
    async fn shown(&self, address: &str) -> CertificateDer<'static> {
        let stream = self.greet(address, BOTH, &[]).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

async fn secured(tls: &ServerTls, worker: &Worker) -> Door {
    secured_with(ServeOptions::default(), tls, worker).await
}

async fn secured_with(mut options: ServeOptions, tls: &ServerTls, worker: &Worker) -> Door {
    options = options.with_tls(Some(tls.clone()));
    let mut door = Door::with("a", &FrontendConfig::default(), options).await;
    door.writer.stage_ready();
    door.add(&worker.instance("a", "m"));
    door
}

#[tokio::test]
async fn both_versions_of_tls_carry_both_versions_of_http() {
    let authority = Authority::new();
    let worker = Worker::start([whole("{}")]).await;
    let door = secured(&authority.server().0, &worker).await;
    for version in BOTH {
        for protocols in [&["http/1.1"][..], &[]] {
            let mut stream = authority.greet(&door.address, &[version], protocols).await;
            stream.write_all(post(CHAT, &chat("m")).as_bytes()).await.unwrap();
            let mut answer = String::new();
            soon(stream.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{version:?} {protocols:?}: {answer}");
        }
        let stream = authority.greet(&door.address, &[version], &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut client = http2::Client::over(stream, &Builder::new(TokioExecutor::new())).await;
        let (status, body) = client.ask(http2::post(CHAT, &chat("m"))).await;
        assert_eq!((status.as_u16(), body.as_str()), (200, "{}"));
    }
}

#[tokio::test]
async fn a_handshake_that_stands_still_or_is_none_ends_by_the_deadline_of_heads() {
    let authority = Authority::new();
    let worker = Worker::start([whole("{}")]).await;
    let options = ServeOptions::new().with_header_timeout(Duration::from_millis(200));
    let door = secured_with(options, &authority.server().0, &worker).await;
    // Silence; the beginning of a record; and plain text, which gets an alert at most.
    for begin in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET /live HTTP/1.1\r\n\r\n"] {
        let answer = soon(common::Answer::read(door.begin(begin).await)).await;
        assert!(!answer.raw.contains("HTTP"), "{}", answer.raw);
    }
}

#[tokio::test]
async fn a_renewed_pair_is_taken_over_and_one_that_does_not_match_is_not() {
    let authority = Authority::new();
    let worker = Worker::start([whole("{}")]).await;
    let (tls, first) = authority.server();
    let door = secured(&tls, &worker).await;
    let mut before = authority.greet(&door.address, BOTH, &[]).await;
    assert_eq!(authority.shown(&door.address).await, der(&first));

    // Half of it, as one who copies the files one after the other leaves it for a moment.
    let (second, key) = authority.sign();
    std::fs::write(authority.path("tls.crt"), &second).unwrap();
    // Longer than the time between two looks: nothing must happen, so there is nothing to wait for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(authority.shown(&door.address).await, der(&first), "what stood stands");
    assert_eq!(tls.chain(), [der(&first).to_vec()], "also for who asks what is shown");
    std::fs::write(authority.path("tls.key"), key).unwrap();
    until_shown(&authority, &door, &second).await;
    assert_eq!(tls.chain(), [der(&second).to_vec()]);
    assert!(tls.client_authorities().is_empty());

    // Connections from before go on.
    before.write_all(b"GET /live HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(before.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_swapped_link_is_noticed_as_kubernetes_swaps_it() {
    let authority = Authority::new();
    let worker = Worker::start([whole("{}")]).await;
    let generation = |name: &str| {
        let (certificate, key) = authority.sign();
        let dir = authority.path(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("tls.crt"), &certificate).unwrap();
        std::fs::write(dir.join("tls.key"), key).unwrap();
        certificate
    };
    let first = generation("..1");
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, authority.path("..tmp")).unwrap();
        std::fs::rename(authority.path("..tmp"), authority.path("..data")).unwrap();
    };
    link("..1");
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), authority.path(name)).unwrap();
    }
    let tls = ServerTls::load(authority.path("tls.crt"), authority.path("tls.key")).unwrap();
    let door = secured(&tls, &worker).await;
    assert_eq!(authority.shown(&door.address).await, der(&first));
    let second = generation("..2");
    link("..2");
    until_shown(&authority, &door, &second).await;
}

async fn until_shown(authority: &Authority, door: &Door, pem: &str) {
    soon(async {
        while authority.shown(&door.address).await != der(pem) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[test]
fn files_that_are_no_pair_are_refused_with_their_names() {
    let authority = Authority::new();
    authority.server();
    let (certificate, key) = (authority.path("tls.crt"), authority.path("tls.key"));
    let refused = |certificate: &Path, key: &Path| {
        ServerTls::load(certificate, key).map(drop).unwrap_err().to_string()
    };
    let missing = authority.path("missing");
    assert!(matches!(ServerTls::load(&missing, &key), Err(TlsError::Read { .. })));
    assert!(refused(&missing, &key).contains("missing"));
    for (one, other, reason) in [
        (&key, &certificate, "there is no certificate"),
        (&certificate, &certificate, "there is no private key"),
        (&authority.path("ca.pem"), &key, "cannot be used"),
    ] {
        let message = refused(one, other);
        assert!(message.contains(reason) && message.contains("tls."), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let file = authority.path("bad.pem");
        std::fs::write(&file, bad).unwrap();
        assert!(refused(&file, &key).contains("bad.pem"));
        let error = WorkerTls::with_authorities(&file).unwrap_err().to_string();
        assert!(error.contains("bad.pem") && error.lines().count() == 1, "{error}");
    }
}

#[tokio::test]
async fn an_https_worker_is_trusted_by_its_authority_which_may_change() {
    let (old, new) = (Authority::new(), Authority::new());
    // The worker is a front door itself.
    let engine = Worker::start([whole("{}")]).await;
    let inner = secured(&new.server().0, &engine).await;
    let url = format!("https://{}", inner.address);

    let authorities = old.path("worker-ca.pem");
    std::fs::copy(old.path("ca.pem"), &authorities).unwrap();
    let trusted = WorkerTls::with_authorities(&authorities).unwrap();
    assert_eq!(trusted.authorities(), [old.issuer.der().to_vec()]);
    let config = FrontendConfig::new().with_worker_tls(trusted.clone());
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.add(&instance("a", "m", "Chat", Some(&url)));
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 502, "signed by a stranger");
    assert_eq!(engine.asked(), 0);

    std::fs::copy(new.path("ca.pem"), &authorities).unwrap();
    soon(async {
        while door.post(CHAT, &chat("m")).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(engine.asked(), 1);
    assert_eq!(trusted.authorities(), [new.issuer.der().to_vec()]);
}
