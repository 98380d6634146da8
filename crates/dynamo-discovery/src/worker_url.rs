//! The base URL of an OpenAI-compatible server.

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use http::uri::Scheme;

use crate::address::is_forbidden_address;
use crate::authority::host_and_port;

/// Where a worker answers: `http` or `https`, a host, maybe a port and a path.
///
/// It has no user info, no query and no fragment. Its host is never a link-local address nor one of a
/// cloud's metadata service. Two spellings of one URL are equal: the scheme and the host are
/// stored in small letters, without the scheme's own port and without a slash at the end. A clone is
/// cheap.
///
/// ```
/// use dynamo_discovery::WorkerUrl;
///
/// let url: WorkerUrl = "HTTP://Engine.Example:80/llm/".parse()?;
/// assert_eq!(url.as_str(), "http://engine.example/llm");
/// assert_eq!((url.host(), url.port()), ("engine.example", 80));
/// assert!("http://user@engine.example".parse::<WorkerUrl>().is_err());
/// assert!("http://169.254.169.254/".parse::<WorkerUrl>().is_err());
/// # Ok::<(), dynamo_discovery::InvalidUrl>(())
/// ```
///
/// A name may still resolve to such an address. Code that connects checks each address with
/// [`is_forbidden_address`].
#[derive(Clone, derive_more::Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[debug("{_0:?}")]
pub struct WorkerUrl(Arc<str>);

impl WorkerUrl {
    /// The longest URL in bytes.
    pub const MAX_LEN: usize = 2048;

    /// The URL, normalized.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the scheme is `https`; else it is `http`.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// The host to connect to: a name or an address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        bare(self.host_and_port().0)
    }

    /// The port to connect to: the scheme's own where the URL names none.
    pub fn port(&self) -> u16 {
        self.host_and_port().1.unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    fn host_and_port(&self) -> (&str, Option<u16>) {
        let (_, rest) = self.0.split_once("://").unwrap_or_default();
        let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
        host_and_port(authority).unwrap_or_else(|| unreachable!("the constructor checked it"))
    }

    /// The URL as its parts.
    pub fn to_uri(&self) -> Uri {
        self.0.parse().unwrap_or_else(|_| unreachable!("the constructor parsed it"))
    }
}

impl FromStr for WorkerUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_LEN {
            return Err(InvalidUrl::TooLong);
        }
        // `Uri` allows more in a path, such as control characters beyond ASCII, and logs show the path.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidUrl::Malformed);
        }
        // `Uri` drops a fragment silently.
        if text.contains('#') {
            return Err(InvalidUrl::QueryOrFragment);
        }
        let uri: Uri = text.parse().map_err(|_| InvalidUrl::Malformed)?;
        let default_port = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => 80,
            Some(scheme) if *scheme == Scheme::HTTPS => 443,
            _ => return Err(InvalidUrl::Scheme),
        };
        let authority = uri.authority().ok_or(InvalidUrl::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(InvalidUrl::UserInfo);
        }
        if uri.query().is_some() {
            return Err(InvalidUrl::QueryOrFragment);
        }
        let (host, port) = host_and_port(authority.as_str()).ok_or(InvalidUrl::Malformed)?;
        if bare(host).parse().is_ok_and(is_forbidden_address) {
            return Err(InvalidUrl::ForbiddenAddress);
        }
        let port = port.filter(|port| *port != default_port);
        let mut url = String::with_capacity(text.len());
        url.push_str(if default_port == 443 { "https://" } else { "http://" });
        url.push_str(host);
        url.make_ascii_lowercase();
        if let Some(port) = port {
            let _ = write!(url, ":{port}");
        }
        url.push_str(uri.path().trim_end_matches('/'));
        Ok(Self(url.into()))
    }
}

impl TryFrom<&str> for WorkerUrl {
    type Error = InvalidUrl;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for WorkerUrl {
    type Error = InvalidUrl;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for WorkerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A host as it is connected to.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Why a text is no [`WorkerUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// It is not `scheme://host[:port][/path]`.
    #[error("it is not of the form http://host[:port][/path]")]
    Malformed,
    /// It is longer than [`WorkerUrl::MAX_LEN`].
    #[error("it is longer than {} bytes", WorkerUrl::MAX_LEN)]
    TooLong,
    /// Its scheme is neither `http` nor `https`.
    #[error("its scheme is neither http nor https")]
    Scheme,
    /// It has user info.
    #[error("it has user info")]
    UserInfo,
    /// It has a query or a fragment.
    #[error("it has a query or a fragment")]
    QueryOrFragment,
    /// Its host is an [address](is_forbidden_address) that is never a worker's.
    #[error("its host is a link-local address or one of a cloud's metadata service")]
    ForbiddenAddress,
    /// It has a path, and is a [`ControlUrl`](crate::ControlUrl).
    #[error("it has a path")]
    Path,
    /// It is no string, as a field of an entry.
    #[error("it is not a string")]
    NotText,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_url_are_equal() {
        for (text, expected) in [
            ("http://192.0.2.5:8001", "http://192.0.2.5:8001"),
            ("http://192.0.2.5:8001/", "http://192.0.2.5:8001"),
            ("HTTP://HOST/", "http://host"),
            ("http://host:80", "http://host"),
            ("https://host:443/v/", "https://host/v"),
            ("https://host:80/", "https://host:80"),
            ("http://[::1]:9/a/b//", "http://[::1]:9/a/b"),
            // The code that connects resolves and checks it.
            ("http://0x7f000001:1", "http://0x7f000001:1"),
        ] {
            assert_eq!(text.parse::<WorkerUrl>().unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn host_and_port_are_those_to_connect_to() {
        for (text, https, host, port) in [
            ("http://engine", false, "engine", 80),
            ("https://engine/v", true, "engine", 443),
            ("https://engine:80/v", true, "engine", 80),
            ("http://[2001:db8::1]:9/a:b", false, "2001:db8::1", 9),
        ] {
            let url: WorkerUrl = text.parse().unwrap();
            assert_eq!((url.is_https(), url.host(), url.port()), (https, host, port), "{text}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for (text, expected) in [
            ("", InvalidUrl::Malformed),
            ("host", InvalidUrl::Scheme),
            ("host:8000", InvalidUrl::Scheme),
            ("/path", InvalidUrl::Scheme),
            ("ftp://host", InvalidUrl::Scheme),
            ("unix:/run/x", InvalidUrl::Malformed),
            ("http://", InvalidUrl::Malformed),
            ("http://:80", InvalidUrl::Malformed),
            ("http://host:", InvalidUrl::Malformed),
            ("http://host:99999", InvalidUrl::Malformed),
            ("http://a b", InvalidUrl::Malformed),
            ("http://host/\r\nX: y", InvalidUrl::Malformed),
            ("http://host/\u{97}", InvalidUrl::Malformed),
            ("http://host/\u{202e}gnp", InvalidUrl::Malformed),
            ("http://host/\u{e9}", InvalidUrl::Malformed),
            ("http://u@host", InvalidUrl::UserInfo),
            ("http://u:p@169.254.169.254", InvalidUrl::UserInfo),
            ("http://host?q", InvalidUrl::QueryOrFragment),
            ("http://host/#f", InvalidUrl::QueryOrFragment),
            ("http://169.254.169.254/latest", InvalidUrl::ForbiddenAddress),
            ("http://[fe80::1]:80", InvalidUrl::ForbiddenAddress),
            ("http://[::ffff:169.254.1.1]", InvalidUrl::ForbiddenAddress),
            ("http://[::169.254.1.1]", InvalidUrl::ForbiddenAddress),
            ("http://[64:ff9b::a9fe:a9fe]", InvalidUrl::ForbiddenAddress),
            ("http://[2002:a9fe:a9fe::]", InvalidUrl::ForbiddenAddress),
            ("http://100.100.100.200", InvalidUrl::ForbiddenAddress),
        ] {
            assert_eq!(text.parse::<WorkerUrl>(), Err(expected), "{text}");
        }
        let long = format!("http://host/{}", "a".repeat(WorkerUrl::MAX_LEN));
        assert_eq!(long.parse::<WorkerUrl>(), Err(InvalidUrl::TooLong));
    }

    proptest! {
        #[test]
        fn a_url_parses_back_to_itself(text in "https?://[a-zA-Z0-9.-]{1,20}(:[0-9]{1,5})?(/[a-z]{0,3}){0,3}") {
            if let Ok(url) = text.parse::<WorkerUrl>() {
                prop_assert_eq!(&url.as_str().parse::<WorkerUrl>().unwrap(), &url);
                let uri = url.to_uri();
                prop_assert_eq!(uri.host(), Some(url.host()));
                prop_assert_eq!(uri.port_u16().is_some_and(|port| port == url.port()), uri.port().is_some());
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = text.parse::<WorkerUrl>();
        }
    }
}
