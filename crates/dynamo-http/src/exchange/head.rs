//! The head of a worker's answer.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::error::Error;
use super::framing::Framing;

/// The longest head, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// How many headers an answer may have.
const MAX_HEADERS: usize = 100;
/// How many headers the proxy adds. The map has room for them, and is no larger: the connection of a
/// client keeps it for as long as a stream runs.
const ADDED: usize = 5;

/// A head, and what follows from it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    /// How the body ends.
    pub(super) framing: Framing,
    /// Whether the connection stays open for another exchange.
    pub(super) persists: bool,
}

/// The head at the beginning of these bytes and its length, once it is whole.
///
/// # Errors
///
/// If it is none, or says of the body what cannot be.
pub(super) fn parse(input: &[u8]) -> Result<Option<(usize, Head)>, Error> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, input, &mut room)
        .map_err(Error::Head)?;
    let Status::Complete(length) = status else {
        return Ok(None);
    };
    let code = parsed.code.unwrap_or_default();
    let status = StatusCode::from_u16(code).map_err(|_| Error::Status(code))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    if length > MAX_HEAD {
        return Err(Error::TooLong { limit: MAX_HEAD });
    }
    let mut headers = headers(&input[..length], parsed.headers)?;
    let (framing, persists) = body(status, version, &mut headers)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    if let Some(reason) = parsed.reason.filter(|one| Some(*one) != status.canonical_reason())
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        // The server writes it to the client.
        response.extensions_mut().insert(reason);
    }
    Ok(Some((length, Head { response, framing, persists })))
}

/// A map of headers, whose values share one copy of the head.
fn headers(head: &[u8], parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Error> {
    let copy = Bytes::copy_from_slice(head);
    let mut headers = HeaderMap::with_capacity(parsed.len() + ADDED);
    for one in parsed {
        let name = HeaderName::from_bytes(one.name.as_bytes());
        let name = name.map_err(|_| Error::Head(httparse::Error::HeaderName))?;
        let at = one.value.as_ptr().addr() - head.as_ptr().addr();
        let value = HeaderValue::from_maybe_shared(copy.slice(at..at + one.value.len()));
        headers.append(name, value.map_err(|_| Error::Head(httparse::Error::HeaderValue))?);
    }
    Ok(headers)
}

/// How a body ends (RFC 9112 section 6.3), and whether another exchange may follow it (section 9.3).
fn body(
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<(Framing, bool), Error> {
    let connection = |option| names(headers, &header::CONNECTION, option);
    let persists =
        !connection(b"close") && (version != Version::HTTP_10 || connection(b"keep-alive"));
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok((Framing::Ended, false));
    }
    if status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
    {
        return Ok((Framing::Ended, persists));
    }
    let length = length(headers)?;
    let mut codings = elements(headers, &header::TRANSFER_ENCODING);
    if let Some(first) = codings.next() {
        let second = codings.next();
        let are_chunked = is_chunked(first) && second.is_none_or(is_chunked);
        if !are_chunked || !codings.all(is_chunked) || version == Version::HTTP_10 {
            return Err(Error::Coding);
        }
        // A worker that says it twice, or gives a length as well, is not sure of what it sends.
        return Ok((Framing::CHUNKED, persists && second.is_none() && length.is_none()));
    }
    Ok((length.map_or(Framing::Close, Framing::of_length), persists))
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

/// The length that an answer gives. Servers that copy headers give it twice: then it stays once.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Error> {
    let mut length: Option<u64> = None;
    let mut repeats = false;
    for one in elements(headers, &header::CONTENT_LENGTH) {
        // A number has no sign here.
        let text = std::str::from_utf8(one).ok().filter(|_| one.iter().all(u8::is_ascii_digit));
        let number = text.and_then(|text| text.parse().ok()).ok_or(Error::Length)?;
        if let Some(before) = length.replace(number) {
            repeats = true;
            if before != number {
                return Err(Error::Length);
            }
        }
    }
    if let (true, Some(length)) = (repeats, length) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

/// The elements of a header that is a list.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn names(headers: &HeaderMap, name: &HeaderName, element: &[u8]) -> bool {
    elements(headers, name).any(|one| one.eq_ignore_ascii_case(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<Head, Error> {
        let head = head.replace('\n', "\r\n");
        let (length, head_of) = parse(head.as_bytes())?.expect("it is whole");
        assert_eq!(length, head.len());
        Ok(head_of)
    }

    fn body_of(head: &str) -> Result<(Framing, bool), Error> {
        parsed(head).map(|head| (head.framing, head.persists))
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 201 Very Well\r\nServer: a b\r\nX-A:  1 \r\nx-a: 2\r\n\r\nbody";
        let end = text.len() - 4;
        for there in 0..end {
            assert!(parse(&text[..there]).unwrap().is_none(), "{there}");
        }
        let (length, Head { response, .. }) = parse(text).unwrap().unwrap();
        assert_eq!((length, response.status().as_u16()), (end, 201));
        assert_eq!(response.headers()["server"], "a b");
        let values: Vec<_> = response.headers().get_all("x-a").into_iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(response.headers().capacity() <= 16);
    }

    #[test]
    fn a_body_ends_as_rfc_9112_says() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\ncontent-length: 3\n\n", (Framing::Length(3), true)),
            ("HTTP/1.1 200 OK\ncontent-length: 0\n\n", (Framing::Ended, true)),
            ("HTTP/1.1 200 OK\ntransfer-encoding: Chunked\n\n", (Framing::CHUNKED, true)),
            ("HTTP/1.1 200 OK\n\n", (Framing::Close, true)),
            ("HTTP/1.1 204 No\ncontent-length: 3\n\n", (Framing::Ended, true)),
            ("HTTP/1.1 304 No\ntransfer-encoding: chunked\n\n", (Framing::Ended, true)),
            ("HTTP/1.1 103 Early\ncontent-length: 3\n\n", (Framing::Ended, true)),
            ("HTTP/1.1 101 Switch\n\n", (Framing::Ended, false)),
            (
                "HTTP/1.1 200 OK\nconnection: a, Close\ncontent-length: 3\n\n",
                (Framing::Length(3), false),
            ),
            ("HTTP/1.0 200 OK\ncontent-length: 3\n\n", (Framing::Length(3), false)),
            (
                "HTTP/1.0 200 OK\nconnection: keep-alive, close\ncontent-length: 3\n\n",
                (Framing::Length(3), false),
            ),
            (
                "HTTP/1.1 200 OK\ntransfer-encoding: chunked\ntransfer-encoding: chunked\n\n",
                (Framing::CHUNKED, false),
            ),
            (
                "HTTP/1.0 200 OK\nconnection: Keep-Alive\ncontent-length: 3\n\n",
                (Framing::Length(3), true),
            ),
            (
                "HTTP/1.1 200 OK\ncontent-length: 3\ntransfer-encoding: chunked\n\n",
                (Framing::CHUNKED, false),
            ),
        ] {
            assert_eq!(body_of(head).unwrap(), expected, "{head}");
        }
    }

    #[test]
    fn a_body_whose_end_is_not_clear_is_refused() {
        for length in ["", "+3", "-3", "3 4", "3, 4", "3,", "0x3", "99999999999999999999"] {
            let head = format!("HTTP/1.1 200 OK\ncontent-length: {length}\n\n");
            assert!(matches!(body_of(&head), Err(Error::Length)), "{length:?}");
        }
        let twice = "HTTP/1.1 200 OK\ncontent-length: 3\ncontent-length: 4\n\n";
        assert!(matches!(body_of(twice), Err(Error::Length)));
        for coding in ["", "gzip", "gzip, chunked", "chunked, gzip", "xchunked"] {
            let head = format!("HTTP/1.1 200 OK\ntransfer-encoding: {coding}\n\n");
            assert!(matches!(body_of(&head), Err(Error::Coding)), "{coding:?}");
        }
        let old = "HTTP/1.0 200 OK\ntransfer-encoding: chunked\n\n";
        assert!(matches!(body_of(old), Err(Error::Coding)));
    }

    #[test]
    fn a_length_that_is_given_twice_stays_once() {
        for twice in ["content-length: 3\ncontent-length: 3", "content-length: 3, 3"] {
            let head = parsed(&format!("HTTP/1.1 200 OK\n{twice}\n\n")).unwrap();
            assert_eq!(head.framing, Framing::Length(3));
            let lengths = head.response.headers().get_all("content-length").into_iter();
            assert_eq!(lengths.collect::<Vec<_>>(), ["3"]);
        }
    }

    #[test]
    fn a_reason_of_the_workers_own_stays() {
        let reason = |head| {
            let head = parsed(head).unwrap();
            head.response.extensions().get::<ReasonPhrase>().map(|one| one.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 503 Model Loading\n\n").unwrap(), b"Model Loading");
        assert_eq!(reason("HTTP/1.1 503 Service Unavailable\n\n"), None);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for head in ["HTTP/2.0 200 OK\n\n", "ICY 200 OK\n\n", "HTTP/1.1 20 OK\n\n", "{\"a\": 1}\n"]
        {
            assert!(matches!(parsed(head), Err(Error::Head(_))), "{head}");
        }
        assert!(matches!(parsed("HTTP/1.1 099 OK\n\n"), Err(Error::Status(99))));
        let many = format!("HTTP/1.1 200 OK\n{}\n", "a: b\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(parsed(&many), Err(Error::Head(httparse::Error::TooManyHeaders))));
        assert!(parsed(&many.replacen("a: b\n", "", 1)).is_ok());
        let long = format!("HTTP/1.1 200 OK\na: {}\n\n", "b".repeat(MAX_HEAD));
        assert!(matches!(parsed(&long), Err(Error::TooLong { .. })));
    }
}
