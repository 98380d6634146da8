//! TLS to etcd: files that are read again for every new client, since they get rotated.

use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

use super::EtcdConfigError;

/// Files for TLS, in PEM.
///
/// They are read when the store is made and again whenever it connects anew, so that rotated
/// certificates are taken up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that we trust. By default the system's.
    pub ca: Option<PathBuf>,
    /// What we show to an etcd that asks for it. By default nothing.
    pub client: Option<ClientIdentity>,
}

/// A client's certificate and its key: never one without the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate, with its chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Tls {
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
        let missing = Tls { ca: Some("/nonexistent/ca.pem".into()), client: None };
        let error = missing.load().unwrap_err().to_string();
        assert_eq!(error, "cannot read `/nonexistent/ca.pem`");

        let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let client = Some(ClientIdentity { cert: source.clone(), key: source });
        let error = Tls { ca: None, client }.load().unwrap_err().to_string();
        assert!(error.ends_with("Cargo.toml` holds no certificate in PEM"), "{error}");
    }
}
