//! TLS on our listener.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::error::TlsError;
use super::files::FromFiles;
use super::provider::provider;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The certificate of a server and its key: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2. A clone is the same.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    pair: Arc<Pair>,
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
        let pair =
            Arc::new(Pair(Arc::new(FromFiles::load(vec![certificate.into(), key.into()], parse)?)));
        let unusable = |error: rustls::Error| TlsError::Invalid {
            paths: pair.0.paths().to_vec(),
            reason: error.to_string(),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(pair.clone());
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // So that a client that comes again need not be remembered.
        config.ticketer = crypto::ring::Ticketer::new().map_err(unusable)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), pair })
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
        self.pair.0.reload_on_change();
    }

    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(io).await
    }

    pub(crate) fn agreed_on_http2<IO>(&self, stream: &TlsStream<IO>) -> bool {
        stream.get_ref().1.alpn_protocol() == Some(HTTP2)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerTls").field(&self.pair.0.paths()).finish()
    }
}

/// The certificate and key that new connections get.
struct Pair(Arc<FromFiles<CertifiedKey>>);

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair")
    }
}

fn parse(contents: &[Vec<u8>]) -> Result<CertifiedKey, String> {
    let [certificates, key] = contents else { unreachable!("there are two files") };
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
