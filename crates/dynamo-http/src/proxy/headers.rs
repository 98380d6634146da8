//! The headers that pass, and the ids of requests.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Version, response};

use crate::random;

/// The id of a request. The client and the frontend share one for the request; the frontend and a
/// worker share one for each attempt.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The id that a client gave, on the way to a worker.
const X_CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether a header is for one connection only (RFC 9110 section 7.6.1), older names included.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::UPGRADE
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::PROXY_AUTHORIZATION
        || name == "keep-alive"
        || name == "proxy-connection"
}

/// Drops the headers that are for one connection only, and those that `Connection` names.
pub(crate) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    // Most requests have one or none, so a single pass over the names is the cheapest check.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A client cannot have the headers dropped that frame or address its message.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        headers.remove(name);
    }
}

/// Turns the head of a worker's answer into that for a client. hyper's server frames the answer anew,
/// in the version of HTTP that the client speaks.
pub(crate) fn for_client(parts: &mut response::Parts) {
    // The transfer coding overrides a length beside it (RFC 9112 section 6.3).
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    drop_hop_by_hop(&mut parts.headers);
    // An intermediary answers in its own version (RFC 9110 section 6.2).
    parts.version = Version::HTTP_11;
}

/// Tells caches and proxies before the frontend to pass an event stream on as it comes. The worker's
/// own headers for this stay.
pub(crate) fn pass_events(headers: &mut HeaderMap) {
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
}

/// Turns a client's headers into those for a worker, but for `Host`, `Content-Length` and
/// `x-request-id`: each attempt replaces them by its own.
///
/// An engine may refuse an id that is in use, so a client's id goes on under another name.
pub(crate) fn for_upstream(headers: &mut HeaderMap, id: &RequestId) {
    drop_hop_by_hop(headers);
    // The whole body has been read, so a worker is not asked for `100 Continue`.
    headers.remove(header::EXPECT);
    // The body was unpacked.
    headers.remove(header::CONTENT_ENCODING);
    if let RequestId::Given(id) = id {
        headers.entry(X_CLIENT_REQUEST_ID).or_insert_with(|| id.clone());
    }
}

/// A value in memory of its own. It would else keep the buffer of the head that it was read in, 8 KiB,
/// for as long as a stream runs.
fn apart(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// The id of a request, for its client and for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestId {
    /// The client's. It is fit for a log, and other requests may have the same.
    Given(HeaderValue),
    /// A new one.
    Own(HeaderValue),
}

impl RequestId {
    /// The id that the client gave, if it is fit for a log; else a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = Self::given(headers);
        given.map_or_else(|| Self::Own(new_request_id()), |id| Self::Given(apart(id)))
    }

    /// The id that the client gave, if it is fit for a log.
    pub(crate) fn given(headers: &HeaderMap) -> Option<&HeaderValue> {
        headers.get(X_REQUEST_ID).filter(|id| {
            (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        })
    }

    pub(crate) fn value(&self) -> &HeaderValue {
        match self {
            Self::Given(id) | Self::Own(id) => id,
        }
    }

    /// An id for an attempt. No two attempts have the same id.
    pub(crate) fn of_attempt(&self, is_first: bool) -> HeaderValue {
        match self {
            Self::Own(id) if is_first => id.clone(),
            Self::Given(_) | Self::Own(_) => new_request_id(),
        }
    }
}

/// A new id: a UUID (version 4 of RFC 9562), since one engine refuses anything else.
///
/// It is written digit by digit, since each request needs one, and formatting is ten times slower.
fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    /// The place of each byte's two digits.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut random = random::id(|ids| ids.u128(..)).to_be_bytes();
    random[6] = 0x40 | random[6] & 0x0f;
    random[8] = 0x80 | random[8] & 0x3f;
    let mut id = [b'-'; 36];
    for (byte, place) in random.into_iter().zip(PLACES) {
        id[place] = DIGITS[usize::from(byte >> 4)];
        id[place + 1] = DIGITS[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&id).unwrap_or_else(|_| unreachable!("digits and dashes"))
}

/// The media type in `Content-Type`, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::CONTENT_TYPE)?.as_bytes();
    Some(value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
}

/// The media types of answers that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Events,
    Json,
    Other,
}

impl Media {
    /// The media type of an answer.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match media_type(headers) {
            Some(essence) if essence.eq_ignore_ascii_case(b"application/json") => Self::Json,
            Some(essence) if essence.eq_ignore_ascii_case(b"text/event-stream") => Self::Events,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_between_two_hops_does_not_pass() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("x-private", "secret"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("content-length", "7"),
            ("authorization", "Bearer k"),
            ("accept-encoding", "gzip"),
        ]);
        for_upstream(&mut headers, &RequestId::Own(HeaderValue::from_static("id")));
        let expected = map(&[
            ("content-length", "7"),
            ("authorization", "Bearer k"),
            ("accept-encoding", "gzip"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_clients_id_goes_on_under_another_name_unless_the_client_gave_that_as_well() {
        let id = RequestId::Given(HeaderValue::from_static("1"));
        let mut headers = map(&[("x-request-id", "1")]);
        for_upstream(&mut headers, &id);
        assert_eq!(headers, map(&[("x-request-id", "1"), ("x-client-request-id", "1")]));
        let mut headers = map(&[("x-request-id", "1"), ("x-client-request-id", "2")]);
        for_upstream(&mut headers, &id);
        assert_eq!(headers, map(&[("x-request-id", "1"), ("x-client-request-id", "2")]));
    }

    #[test]
    fn an_id_does_not_keep_the_buffer_of_the_head_that_it_came_in() {
        let buffer = Bytes::from(b"1234".to_vec());
        let given = HeaderValue::from_maybe_shared(buffer.clone()).unwrap();
        let headers = HeaderMap::from_iter([(X_REQUEST_ID, given)]);
        let id = RequestId::of(&headers);
        drop(headers);
        assert_eq!(id.value(), "1234");
        assert!(buffer.is_unique());
    }

    #[test]
    fn no_two_attempts_have_the_same_id() {
        let own = RequestId::of(&HeaderMap::new());
        assert_eq!(&own.of_attempt(true), own.value());
        assert_ne!(&own.of_attempt(false), own.value());
        let given = RequestId::of(&map(&[("x-request-id", "abc-1")]));
        assert_ne!(given.of_attempt(true), "abc-1");
        assert_ne!(given.of_attempt(true), given.of_attempt(true));
    }

    #[test]
    fn an_event_stream_is_not_held_back_unless_its_worker_says_so() {
        let mut headers = HeaderMap::new();
        pass_events(&mut headers);
        assert_eq!(headers, map(&[("cache-control", "no-cache"), ("x-accel-buffering", "no")]));
        let told = map(&[("cache-control", "no-store"), ("x-accel-buffering", "yes")]);
        let mut headers = told.clone();
        pass_events(&mut headers);
        assert_eq!(headers, told);
    }

    #[test]
    fn a_length_beside_a_transfer_coding_frames_nothing() {
        let mut parts = http::Response::new(()).into_parts().0;
        parts.version = Version::HTTP_10;
        parts.headers = map(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        for_client(&mut parts);
        assert_eq!((parts.headers, parts.version), (HeaderMap::new(), Version::HTTP_11));
    }

    #[test]
    fn a_client_cannot_have_the_framing_dropped() {
        let mut headers = map(&[("connection", "content-length"), ("content-length", "5")]);
        drop_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("content-length", "5")]));
    }

    #[test]
    fn an_id_is_taken_over_if_it_is_fit_for_a_log() {
        let request_id = |headers: &HeaderMap| RequestId::of(headers).value().clone();
        assert_eq!(request_id(&map(&[("x-request-id", "abc-1")])), "abc-1");
        for unfit in ["", "a b", "\u{e9}"] {
            let headers = [(X_REQUEST_ID, HeaderValue::from_bytes(unfit.as_bytes()).unwrap())];
            assert_ne!(request_id(&headers.into_iter().collect()), unfit);
        }
    }

    #[test]
    fn a_new_id_is_a_random_uuid() {
        let id = new_request_id();
        let id = id.to_str().unwrap();
        let groups: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        assert_ne!(id, new_request_id());
    }

    #[test]
    fn an_id_does_not_depend_on_the_seed_of_fastrand_which_is_the_time() {
        let seeded = || {
            fastrand::seed(1);
            new_request_id()
        };
        assert_ne!(seeded(), seeded());
    }
}
