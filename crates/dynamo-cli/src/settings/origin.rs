//! Whose web pages may use the front door.

use std::str::FromStr;

use http::{HeaderValue, Uri};

use super::value::Expected;

/// An origin as browsers send it, or `*`: all origins.
///
/// An origin is a scheme, a host, and the port where it is not the scheme's own
/// ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454#section-6.1)). Browsers compare its bytes, so
/// upper case and the scheme's own port are mended here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WebOrigin {
    All,
    One(HeaderValue),
}

impl FromStr for WebOrigin {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if text == "*" {
            return Ok(Self::All);
        }
        let lower = text.to_ascii_lowercase();
        let uri: Uri = lower.parse().map_err(|_| no_origin())?;
        let (scheme, host) = uri.scheme_str().zip(uri.host()).ok_or_else(no_origin)?;
        let port = uri.port_u16();
        let plain = match port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        // Whatever else stands there, such as a path or a user, is no part of an origin.
        if lower != plain || host.is_empty() {
            return Err(no_origin());
        }
        let is_own_port = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
        let origin = if is_own_port { format!("{scheme}://{host}") } else { plain };
        HeaderValue::try_from(origin).map(Self::One).map_err(|_| no_origin())
    }
}

fn no_origin() -> Expected {
    Expected("*, or an origin such as https://chat.example or http://localhost:3000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_spelled_as_browsers_send_it() {
        for (text, expected) in [
            ("https://chat.example", "https://chat.example"),
            ("HTTPS://Chat.Example:443", "https://chat.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:443", "http://localhost:443"),
            ("http://[2001:db8::7]:8080", "http://[2001:db8::7]:8080"),
            ("tauri://localhost", "tauri://localhost"),
        ] {
            let origin = WebOrigin::One(HeaderValue::from_static(expected));
            assert_eq!(text.parse::<WebOrigin>().ok(), Some(origin), "{text}");
        }
        assert_eq!("*".parse::<WebOrigin>().ok(), Some(WebOrigin::All));
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for text in [
            "",
            "null",
            "chat.example",
            "https://",
            "https://chat.example/",
            "https://chat.example/app",
            "https://chat.example?q",
            "https://user@chat.example",
            "https://chat.example:",
            "https://chat.example:080",
            "https://*.example, https://other.example",
            "https://chat.example\n",
        ] {
            assert!(text.parse::<WebOrigin>().is_err(), "{text:?}");
        }
    }
}
