//! The name of a client in its certificate.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::client_name::ClientName;

/// The first URI among the alternative names, else the first DNS name, else the common name.
///
/// The certificate must have been verified.
pub(super) fn client_name(certificate: &CertificateDer<'_>) -> Option<ClientName> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let uri = certificate.valid_uri_names().next();
    let name = uri.or_else(|| certificate.valid_dns_names().next());
    name.or_else(|| common_name(certificate.subject()))?.parse().ok()
}

/// The common name in a subject, the content of an X.501 `Name` in DER; none where there are several.
fn common_name(mut subject: &[u8]) -> Option<&str> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const OID: u8 = 0x06;
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const UTF8_STRING: u8 = 0x0c;
    const PRINTABLE_STRING: u8 = 0x13;
    const IA5_STRING: u8 = 0x16;

    let mut found = None;
    while !subject.is_empty() {
        let (mut attributes, rest) = element(subject, SET)?;
        subject = rest;
        while !attributes.is_empty() {
            let (attribute, rest) = element(attributes, SEQUENCE)?;
            attributes = rest;
            let (kind, value) = element(attribute, OID)?;
            if kind != COMMON_NAME {
                continue;
            }
            let (text, _) = [UTF8_STRING, PRINTABLE_STRING, IA5_STRING]
                .into_iter()
                .find_map(|tag| element(value, tag))?;
            if found.replace(std::str::from_utf8(text).ok()?).is_some() {
                return None;
            }
        }
    }
    found
}

/// The content of the first element, if it has the tag, and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, content) = match input.strip_prefix(&[tag])? {
        [length @ ..=0x7f, content @ ..] => (usize::from(*length), content),
        [0x81, length, content @ ..] => (usize::from(*length), content),
        [0x82, high, low, content @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), content)
        }
        _ => return None,
    };
    content.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn name(names: &[&str], common: &[&str]) -> Option<String> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "x".repeat(300));
        for common in common {
            params.distinguished_name.push(DnType::CommonName, *common);
        }
        for name in names {
            let text = (*name).try_into().unwrap();
            let is_uri = name.contains("://");
            let san = if is_uri { SanType::URI(text) } else { SanType::DnsName(text) };
            params.subject_alt_names.push(san);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        client_name(certificate.der()).map(|name| name.to_string())
    }

    #[test]
    fn the_name_is_a_uri_else_a_dns_name_else_the_common_name() {
        let spiffe = "spiffe://example.org/ns/team-a";
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(name(&["a.example", spiffe, "b.example"], &["team-a"]), some(spiffe));
        assert_eq!(name(&["a.example", "b.example"], &["team-a"]), some("a.example"));
        assert_eq!(name(&[], &["team-ä"]), some("team-ä"));
        assert_eq!(name(&[], &[]), None);
    }

    #[test]
    fn a_name_that_could_break_a_log_line_or_is_endless_is_none() {
        assert_eq!(name(&[], &["team-a\nteam-b"]), None);
        assert_eq!(name(&[], &[&"x".repeat(513)]), None);
        assert_eq!(name(&[], &[&"x".repeat(512)]), Some("x".repeat(512)));
    }

    #[test]
    fn of_two_common_names_neither_counts() {
        let one = [&[0x31, 12, 0x30, 10, 6, 3, 0x55, 4, 3, 0x0c, 3][..], b"abc"].concat();
        assert_eq!(common_name(&one), Some("abc"));
        assert_eq!(common_name(&[&one[..], &one].concat()), None);
        for cut in 1..one.len() {
            assert_eq!(common_name(&one[..cut]), None, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            common_name(&bytes);
        }
    }
}
