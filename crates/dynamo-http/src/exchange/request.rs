//! A request to a worker, as it is written.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// A request. Its length is that of the body: no header has to say it.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// The path and the query.
    pub(crate) target: &'a str,
    /// Headers that come from elsewhere. Those that `own` names, and what would frame the body, are left
    /// out.
    pub(crate) headers: &'a HeaderMap,
    /// Headers that this request decides about.
    pub(crate) own: &'a [(HeaderName, Own<'a>)],
    /// `None` where the method has none: no length is written then.
    pub(crate) body: Option<&'a Bytes>,
}

/// Which value a header of a request has.
pub(crate) enum Own<'a> {
    /// This value, whatever the headers from elsewhere say.
    Is(&'a HeaderValue),
    /// What the headers from elsewhere say.
    Passes,
    /// None.
    Omitted,
}

impl Request<'_> {
    /// Writes all but the body.
    pub(super) fn write_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, own) in self.own {
            if let Own::Is(value) = own {
                write_header(out, name, value.as_bytes());
            }
        }
        if let Some(body) = self.body {
            let mut digits = itoa::Buffer::new();
            write_header(out, &header::CONTENT_LENGTH, digits.format(body.len()).as_bytes());
        }
        for (name, value) in self.headers {
            if self.passes(name) {
                write_header(out, name, value.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn passes(&self, name: &HeaderName) -> bool {
        let own = self.own.iter().find(|(own, _)| own == name);
        own.is_none_or(|(_, own)| matches!(own, Own::Passes))
            && *name != header::CONTENT_LENGTH
            && *name != header::TRANSFER_ENCODING
    }
}

fn write_header(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.reserve(name.as_str().len() + value.len() + 4);
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(own: &[(HeaderName, Own<'_>)], headers: &[(HeaderName, &'static str)]) -> String {
        let headers = headers.iter().cloned();
        let headers =
            headers.map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
        let body = Bytes::from_static(b"{}");
        let request = Request {
            method: Method::POST,
            target: "/v1/a?b=c",
            headers: &headers,
            own,
            body: Some(&body),
        };
        let mut out = Vec::new();
        request.write_head(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_request_says_itself_replaces_what_came_with_it() {
        let host = HeaderValue::from_static("192.0.2.1:80");
        let own = [
            (header::HOST, Own::Is(&host)),
            (header::AUTHORIZATION, Own::Passes),
            (header::ACCEPT_ENCODING, Own::Omitted),
        ];
        let came = [
            (header::HOST, "front.example"),
            (header::AUTHORIZATION, "Bearer k"),
            (header::ACCEPT_ENCODING, "gzip"),
            (header::ACCEPT, "a"),
            (header::ACCEPT, "b"),
        ];
        let expected = "POST /v1/a?b=c HTTP/1.1\r\nhost: 192.0.2.1:80\r\ncontent-length: 2\r\n\
                        authorization: Bearer k\r\naccept: a\r\naccept: b\r\n\r\n";
        assert_eq!(head(&own, &came), expected);
    }

    #[test]
    fn nothing_that_came_with_a_request_frames_its_body() {
        let came = [(header::CONTENT_LENGTH, "7"), (header::TRANSFER_ENCODING, "chunked")];
        assert_eq!(head(&[], &came), "POST /v1/a?b=c HTTP/1.1\r\ncontent-length: 2\r\n\r\n");
    }

    #[test]
    fn a_request_without_a_body_has_no_length() {
        let headers = HeaderMap::new();
        let request = Request {
            method: Method::GET,
            target: "/health",
            headers: &headers,
            own: &[],
            body: None,
        };
        let mut out = Vec::new();
        request.write_head(&mut out);
        assert_eq!(out, b"GET /health HTTP/1.1\r\n\r\n");
    }
}
