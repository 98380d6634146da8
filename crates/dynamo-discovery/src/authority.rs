//! Host and port in the authority of a URL.

/// The host of an authority, in brackets where it is an IPv6 address, and the port where one is
/// given; `None` when the host is empty or the port is no number.
///
/// The authority has no user info.
pub(crate) fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']')? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    let port = match rest.strip_prefix(':') {
        // `u16` alone would also take a sign.
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        None if rest.is_empty() => None,
        _ => return None,
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_maybe_a_port() {
        for (authority, expected) in [
            ("engine", Some(("engine", None))),
            ("engine:80", Some(("engine", Some(80)))),
            ("192.0.2.5:65535", Some(("192.0.2.5", Some(65535)))),
            ("[2001:db8::1]", Some(("[2001:db8::1]", None))),
            ("[2001:db8::1]:80", Some(("[2001:db8::1]", Some(80)))),
            ("", None),
            (":80", None),
            ("engine:", None),
            ("engine:+80", None),
            ("engine:65536", None),
            ("engine:80:80", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]80", None),
        ] {
            assert_eq!(host_and_port(authority), expected, "{authority:?}");
        }
    }
}
