//! TLS on our listener.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::client_name;
use super::der::der;
use super::error::TlsError;
use super::files::FromFiles;
use super::provider::provider;
use crate::client_name::ClientName;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The certificate of a server and its key: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2. A clone is the same.
#[derive(Clone, derive_more::Debug)]
#[debug("ServerTls({:?})", config.paths())]
pub struct ServerTls {
    /// Made anew with every change of a file, and with it the key of the session tickets: a session
    /// that began under other authorities cannot be resumed.
    config: Arc<FromFiles<Listening>>,
}

/// What the files of a server make.
struct Listening {
    config: Arc<ServerConfig>,
    /// The certificate of the server, and those of the authorities between.
    chain: Vec<CertificateDer<'static>>,
    /// The certificates of the authorities that vouch for clients.
    client_authorities: Vec<CertificateDer<'static>>,
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// A client without a valid certificate is refused.
    #[default]
    Required,
    /// A client may have none. One that shows a certificate that is not valid is refused.
    Optional,
}

impl ServerTls {
    /// Reads a certificate, with those of the authorities between, and its key, all PEM.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, holds nothing of the kind, or the two do not belong together.
    pub fn load(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, TlsError> {
        let files = vec![certificate.into(), key.into()];
        Self::from_files(files, |contents| {
            let [certificates, key] = contents else { unreachable!("there are two files") };
            listening(certificates, key, Arc::new(NoClientAuth), Vec::new())
        })
    }

    /// The same, with certificates of clients that an authority in the PEM file `authorities` vouches
    /// for. Requests of a client with such a certificate have its [`ClientName`] in their extensions.
    ///
    /// Revocation lists are not asked for.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or `authorities` holds no certificate.
    pub fn with_client_authorities(
        self,
        authorities: impl Into<PathBuf>,
        auth: ClientAuth,
    ) -> Result<Self, TlsError> {
        let files = self.config.paths().iter().take(2).cloned();
        let files = files.chain([authorities.into()]).collect();
        Self::from_files(
            files,
            match auth {
                ClientAuth::Required => |contents| with_clients(contents, ClientAuth::Required),
                ClientAuth::Optional => |contents| with_clients(contents, ClientAuth::Optional),
            },
        )
    }

    fn from_files(
        files: Vec<PathBuf>,
        make: fn(&[Vec<u8>]) -> Result<Listening, String>,
    ) -> Result<Self, TlsError> {
        Ok(Self { config: Arc::new(FromFiles::load(files, make)?) })
    }

    /// Reads the files again when they change: every second they are looked at. What does not hold
    /// together, such as a certificate whose key is not there yet, is refused, and said once.
    ///
    /// [`serve`](crate::serve) does this.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn reload_on_change(&self) {
        self.config.reload_on_change();
    }

    /// The certificates that clients are shown now, in DER: the server's own, then those of the
    /// authorities between.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        der(&self.config.current().chain)
    }

    /// The certificates of the authorities that vouch for clients now, in DER. Empty where clients are
    /// asked for no certificate.
    pub fn client_authorities(&self) -> Vec<Vec<u8>> {
        der(&self.config.current().client_authorities)
    }

    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.config.current().config.clone()).accept(io).await
    }

    pub(crate) fn agreed_on_http2<IO>(&self, stream: &TlsStream<IO>) -> bool {
        stream.get_ref().1.alpn_protocol() == Some(HTTP2)
    }

    /// The name in the client's certificate, which the handshake has verified.
    pub(crate) fn client<IO>(&self, stream: &TlsStream<IO>) -> Option<ClientName> {
        client_name(stream.get_ref().1.peer_certificates()?.first()?)
    }
}

fn with_clients(contents: &[Vec<u8>], auth: ClientAuth) -> Result<Listening, String> {
    let [certificates, key, authorities] = contents else { unreachable!("there are three files") };
    let mut roots = RootCertStore::empty();
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(authorities)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the authorities are not PEM: {error}"))?;
    for authority in &authorities {
        roots
            .add(authority.clone())
            .map_err(|error| format!("an authority is unusable: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
    let verifier = match auth {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    };
    let verifier =
        verifier.build().map_err(|error| format!("there is no authority for clients: {error}"))?;
    listening(certificates, key, verifier, authorities)
}

fn listening(
    certificates: &[u8],
    key: &[u8],
    clients: Arc<dyn ClientCertVerifier>,
    client_authorities: Vec<CertificateDer<'static>>,
) -> Result<Listening, String> {
    let pair = pair(certificates, key)?;
    let chain = pair.cert.clone();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    // So that a client that comes again need not be remembered.
    config.ticketer = crypto::ring::Ticketer::new().map_err(|error| error.to_string())?;
    Ok(Listening { config: Arc::new(config), chain, client_authorities })
}

fn pair(certificates: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("there is no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("there is no private key as PEM: {error}"))?;
    // Also looks whether the two belong together.
    CertifiedKey::from_der(certificates, key, &provider())
        .map_err(|error| format!("certificate and key cannot be used: {error}"))
}
