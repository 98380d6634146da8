//! TLS, by rustls with ring: on our listener, and to workers.
//!
//! Certificates are read again when their files change, so that they can be renewed without a
//! restart. A change that does not hold together is refused, and what was there goes on.

mod client;
mod der;
mod error;
mod files;
mod provider;
mod server;
mod worker;

pub use self::error::TlsError;
pub use self::server::{ClientAuth, ServerTls};
pub use self::worker::WorkerTls;
