//! TLS to `https` workers.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::der::der;
use super::error::TlsError;
use super::files::FromFiles;
use super::provider::provider;

/// Which authorities are trusted to vouch for `https` workers. A clone is the same.
///
/// By default those of the machine, which are read when the first such worker is met.
#[derive(Clone, derive_more::Debug, Default)]
#[debug("WorkerTls({:?})", more.as_ref().map(|more| more.paths()))]
pub struct WorkerTls {
    /// Those beside the machine's own.
    more: Option<Arc<FromFiles<Trust>>>,
}

/// What a file of authorities makes.
struct Trust {
    config: Arc<ClientConfig>,
    /// The certificates of the file.
    authorities: Vec<CertificateDer<'static>>,
}

impl WorkerTls {
    /// Trusts the authorities in a PEM file as well.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds no certificate.
    pub fn with_authorities(file: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let more = FromFiles::load(vec![file.into()], |contents| trust(&contents.concat()))?;
        Ok(Self { more: Some(Arc::new(more)) })
    }

    /// Reads the file again when it changes: every second it is looked at. One that is no good is
    /// refused, and said once.
    ///
    /// A front door does this for its own configuration.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn reload_on_change(&self) {
        if let Some(more) = &self.more {
            more.reload_on_change();
        }
    }

    /// The certificates that the file holds now, in DER. Empty where no file was given.
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        self.more.as_ref().map(|more| der(&more.current().authorities)).unwrap_or_default()
    }

    /// Speaks TLS to `host`, a name or an address, over a connection to it.
    ///
    /// # Errors
    ///
    /// When the handshake fails, such as for want of trust.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        self.open(host, stream).await
    }

    pub(crate) async fn open(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        /// Reading the machine's certificates takes a while, so not before they are needed.
        static NATIVE: LazyLock<Result<Arc<ClientConfig>, String>> =
            LazyLock::new(|| config(&[]).map(Arc::new));

        let config = match &self.more {
            Some(more) => more.current().config.clone(),
            None => NATIVE.clone().map_err(io::Error::other)?,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

/// Trusts the machine's authorities, and those in a PEM file, at least one.
fn trust(file: &[u8]) -> Result<Trust, String> {
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(file)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM: {error}"))?;
    if authorities.is_empty() {
        return Err("there is no certificate".into());
    }
    let config = Arc::new(config(&authorities)?);
    Ok(Trust { config, authorities })
}

/// Trusts the machine's authorities, and `more`.
fn config(more: &[CertificateDer<'static>]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for authority in more {
        let added = roots.add(authority.clone());
        added.map_err(|error| format!("it has an unusable authority: {error}"))?;
    }
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
