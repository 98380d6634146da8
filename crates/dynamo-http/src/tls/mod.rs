//! TLS, by rustls with ring: on our listener, and to workers.
//!
//! Certificates are read again when their files change, so that they can be renewed without a
//! restart. A change that does not hold together is refused, and what was there goes on.

mod files;
mod server;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::server::ServerTls;
pub use self::worker::WorkerTls;

/// Why files make no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What the files hold is not what is needed.
    #[error("{paths:?}: {reason}")]
    Invalid {
        /// The files.
        paths: Vec<PathBuf>,
        /// What is wrong with them.
        reason: String,
    },
}

/// Named, so that no other provider in the process can make this one ambiguous.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
