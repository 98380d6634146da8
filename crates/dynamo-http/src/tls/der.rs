//! Certificates as bytes, so that callers see no type of another crate.

use rustls::pki_types::CertificateDer;

/// Each certificate in DER.
pub(super) fn der(certificates: &[CertificateDer<'static>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.to_vec()).collect()
}
