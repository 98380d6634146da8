//! Certificates for one test, by an authority that only this test trusts.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use dynamo_discovery::{ClientIdentity, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;

/// The files of an authority, a server on loopback, and a client, in PEM.
pub struct Certificates {
    directory: TempDir,
    authority: Mutex<Issuer<'static, KeyPair>>,
}

impl Certificates {
    /// Makes the files.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("dyn-tls-").tempdir().unwrap();
        let certificates = Self { authority: Mutex::new(authority().1), directory };
        certificates.rotate();
        certificates
    }

    /// Makes all files again, by another authority, under the same paths.
    pub fn rotate(&self) {
        let (pem, issuer) = authority();
        self.write("ca", &pem);
        *self.authority.lock().unwrap() = issuer;
        self.certify("server", "server", &["localhost", "127.0.0.1"]);
        self.certify("client", "client", &[]);
    }

    /// Makes one certificate and its key by the same authority, as `NAME` and `NAME-key`: for this
    /// common name, and for a server with these names.
    pub fn certify(&self, name: &str, common_name: &str, names: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let authority = self.authority.lock().unwrap();
        let certificate = params(common_name, names).signed_by(&key, &*authority).unwrap();
        self.write(name, &certificate.pem());
        self.write(&format!("{name}-key"), &key.serialize_pem());
    }

    /// Copies the files of another instance.
    pub fn copy_from(&self, others: &Self) {
        for name in ["ca", "server", "server-key", "client", "client-key"] {
            fs::copy(others.path(name), self.path(name)).unwrap();
        }
    }

    fn write(&self, name: &str, pem: &str) {
        fs::write(self.path(name), pem).unwrap();
    }

    /// The path of a file: `ca`, `server`, `server-key`, `client`, `client-key`, or a name that was given to
    /// [`certify`](Self::certify).
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pem"))
    }

    /// The text of a file.
    ///
    /// # Panics
    ///
    /// When the file is not UTF-8.
    pub fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The arguments with which an etcd shows the server's certificate and asks clients for theirs.
    pub fn etcd_arguments(&self) -> Vec<String> {
        let flags = [("--cert-file", "server"), ("--key-file", "server-key")];
        let mut arguments: Vec<_> =
            flags.iter().map(|(flag, name)| format!("{flag}={}", self.file(name))).collect();
        arguments.push(format!("--trusted-ca-file={}", self.file("ca")));
        arguments.push("--client-cert-auth".to_owned());
        arguments
    }

    /// The TLS settings of a client of ours.
    pub fn tls(&self) -> Tls {
        let client = ClientIdentity::new(self.path("client"), self.path("client-key"));
        Tls::new().with_ca(self.path("ca")).with_client(client)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

/// An authority's certificate, and what it signs with.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = params("the tests' authority", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // etcd's gateway shows the server's certificate to etcd itself.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}
