//! TLS to etcd: files that are read again for every new client, since they get rotated.

use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

use super::EtcdConfigError;

/// Files for TLS, in PEM.
///
/// They are read when the store is made and again whenever it connects anew, so that rotated
/// certificates are taken up.
///
/// ```
/// use dynamo_discovery::{ClientIdentity, EtcdConfig, Tls};
///
/// let tls = Tls::new()
///     .with_ca("/etc/etcd/ca.pem")
///     .with_client(ClientIdentity::new("/etc/etcd/client.pem", "/etc/etcd/client-key.pem"));
/// let config = EtcdConfig::new(["https://etcd.example:2379"]).with_tls(tls);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Tls {
    ca: Option<PathBuf>,
    client: Option<ClientIdentity>,
}

/// A client's certificate and its key: never one without the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    cert: PathBuf,
    key: PathBuf,
}

impl ClientIdentity {
    /// The certificate in one file, with its chain, and the private key in another.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into() }
    }
}

impl Tls {
    /// TLS that trusts the system's authorities and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the file of the authorities that are trusted in place of the system's.
    pub fn with_ca(self, ca: impl Into<PathBuf>) -> Self {
        Self { ca: Some(ca.into()), ..self }
    }

    /// Sets the identity that an etcd is shown that asks for one, or `None`.
    pub fn with_client(self, client: impl Into<Option<ClientIdentity>>) -> Self {
        Self { client: client.into(), ..self }
    }

    /// Reads the files. It blocks, for small local files.
    pub(super) fn load(&self) -> Result<TlsOptions, EtcdConfigError> {
        let options = match &self.ca {
            Some(ca) => {
                let ca = read(ca, "CERTIFICATE-----", "certificate")?;
                TlsOptions::new().ca_certificate(Certificate::from_pem(ca))
            }
            None => TlsOptions::new().with_native_roots(),
        };
        Ok(match &self.client {
            Some(ClientIdentity { cert, key }) => options.identity(Identity::from_pem(
                read(cert, "CERTIFICATE-----", "certificate")?,
                read(key, "PRIVATE KEY-----", "private key")?,
            )),
            None => options,
        })
    }
}

fn read(path: &Path, mark: &str, expected: &'static str) -> Result<Vec<u8>, EtcdConfigError> {
    let bytes = std::fs::read(path)
        .map_err(|source| EtcdConfigError::File { path: path.to_owned(), source })?;
    if bytes.windows(mark.len()).any(|window| window == mark.as_bytes()) {
        Ok(bytes)
    } else {
        Err(EtcdConfigError::Pem { path: path.to_owned(), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_named() {
        let missing = Tls::new().with_ca("/nonexistent/ca.pem");
        let error = missing.load().unwrap_err().to_string();
        assert_eq!(error, "cannot read `/nonexistent/ca.pem`");

        let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let client = ClientIdentity::new(source.clone(), source);
        let error = Tls::new().with_client(client).load().unwrap_err().to_string();
        assert!(error.ends_with("Cargo.toml` holds no certificate in PEM"), "{error}");
    }
}
