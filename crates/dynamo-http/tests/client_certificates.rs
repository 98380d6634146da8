//! Certificates of clients: which are let in, under which name, and what they open.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/http2.rs"]
mod http2;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use common::keyed::{self, A, B};
use common::{SOON, soon};
use dynamo_http::{
    ApiKey, ClientAuth, ClientName, Credential, KeyHash, ServeOptions, ServerTls, serve,
};
use hyper::client::conn::http2::Builder;
use hyper_util::rt::TokioExecutor;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server's files. One authority signs its certificate, and another one signs those of clients.
struct Site {
    dir: TempDir,
    roots: RootCertStore,
    clients: Issuer,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dynamo-clients-").tempdir().unwrap();
        let (server, clients) = (authority(), authority());
        let params = CertificateParams::new(["localhost".into()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &server).unwrap().pem();
        std::fs::write(dir.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("clients.pem"), clients.pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.pem().as_bytes()).unwrap()).unwrap();
        Self { dir, roots, clients }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self, auth: ClientAuth) -> ServeOptions {
        let tls = ServerTls::load(self.path("tls.crt"), self.path("tls.key")).unwrap();
        let tls = tls.with_client_authorities(self.path("clients.pem"), auth).unwrap();
        ServeOptions::new().with_tls(Some(tls))
    }

    /// A server that answers with the name of its client.
    async fn serve(&self, auth: ClientAuth) -> String {
        let name = |client: Option<Extension<ClientName>>| async move {
            client.map_or_else(|| "nobody".into(), |Extension(client)| client.to_string())
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/", get(name));
        tokio::spawn(serve(listener, router, self.options(auth), std::future::pending()));
        address
    }

    /// A client whose certificate `issuer` has signed.
    fn client(&self, issuer: &Issuer, name: &str) -> Client {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        self.client_with(Some((certificate, key)))
    }

    fn client_with(
        &self,
        pair: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> Client {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let config = match pair {
            Some((certificate, key)) => {
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        Client(config)
    }
}

/// A client, which keeps its sessions.
struct Client(ClientConfig);

impl Client {
    async fn connect(&self, address: &str, protocol: &str) -> io::Result<TlsStream<TcpStream>> {
        let mut config = self.0.clone();
        config.alpn_protocols = vec![protocol.into()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    async fn ask(&self, address: &str, request: &str) -> io::Result<String> {
        let mut stream = self.connect(address, "http/1.1").await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await?;
        Ok(answer)
    }

    /// The name under which the server knows the client; an error where it is refused.
    async fn name(&self, address: &str) -> io::Result<String> {
        let answer = self.ask(address, &keyed::get("/", None)).await?;
        Ok(answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

#[tokio::test]
async fn a_client_has_the_name_that_its_certificate_says_over_both_versions_of_http() {
    let site = Site::new();
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let address = site.serve(auth).await;
        let client = site.client(&site.clients, "team-a");
        assert_eq!(client.name(&address).await.unwrap(), "team-a");
        let stream = client.connect(&address, "h2").await.unwrap();
        let mut http2 = http2::Client::over(stream, &Builder::new(TokioExecutor::new())).await;
        assert_eq!(http2.ask(http2::get("/")).await.1, "team-a");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_in_only_where_it_may_and_a_strangers_never_does() {
    let site = Site::new();
    let nobody = site.client_with(None);
    let strangers = site.client(&authority(), "team-a");
    let required = site.serve(ClientAuth::Required).await;
    assert!(nobody.name(&required).await.is_err());
    assert!(strangers.name(&required).await.is_err());
    let optional = site.serve(ClientAuth::Optional).await;
    assert_eq!(nobody.name(&optional).await.unwrap(), "nobody");
    assert!(strangers.name(&optional).await.is_err());
}

#[tokio::test]
async fn an_authority_that_is_replaced_lets_nobody_in_from_then_on_not_even_by_an_old_session() {
    let site = Site::new();
    let address = site.serve(ClientAuth::Required).await;
    let old = site.client(&site.clients, "old");
    for _ in 0..2 {
        assert_eq!(old.name(&address).await.unwrap(), "old");
    }
    let other = authority();
    let new = site.client(&other, "new");
    std::fs::write(site.path("clients.pem"), other.pem()).unwrap();
    tokio::time::timeout(SOON, async {
        while new.name(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    assert!(old.name(&address).await.is_err());
}

#[test]
fn a_file_without_an_authority_is_refused_by_its_name() {
    let site = Site::new();
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(site.path("clients.pem"), bad).unwrap();
        let tls = ServerTls::load(site.path("tls.crt"), site.path("tls.key")).unwrap();
        let refused = tls.with_client_authorities(site.path("clients.pem"), ClientAuth::Required);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("clients.pem") && message.lines().count() == 1, "{message}");
    }
}

#[tokio::test]
async fn a_key_that_names_a_client_opens_nothing_without_its_certificate() {
    let site = Site::new();
    let client = |name: &str| name.parse::<ClientName>().unwrap();
    let hash = |key| KeyHash::of(key).unwrap();
    let key = |name: &str, credential: Credential| {
        ApiKey::new(name.parse().unwrap(), credential, common::scope("a"))
    };
    let keys = vec![
        key("both", Credential::Both(hash(A).into(), client("team-a"))),
        key("certificate", client("team-b").into()),
        key("plain", hash(B).into()),
    ];
    let options = site.options(ClientAuth::Optional);
    let door = keyed::Door::starting_with(keys, options).await;
    door.synced(&[]).await;

    let nobody = site.client_with(None);
    let team_a = site.client(&site.clients, "team-a");
    let team_b = site.client(&site.clients, "team-b");
    let unknown = "key-that-is-in-no-file-at-all";
    for (who, key, status) in [
        (&nobody, None, 401),
        (&nobody, Some(A), 401),
        (&nobody, Some(B), 200),
        (&team_a, None, 401),
        (&team_a, Some(A), 200),
        (&team_a, Some(B), 200),
        (&team_a, Some(unknown), 401),
        (&team_b, None, 200),
        (&team_b, Some(A), 401),
        // Libraries that cannot leave the key out send one that means nothing.
        (&team_b, Some(unknown), 200),
    ] {
        let answer = who.ask(&door.address, &keyed::get("/v1/models", key)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{key:?}: {answer}");
    }
}
