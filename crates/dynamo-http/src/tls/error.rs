//! Why files make no TLS.

use std::io;
use std::path::PathBuf;

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
