//! The one provider of cryptography.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Named, so that no other provider in the process can make this one ambiguous.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
