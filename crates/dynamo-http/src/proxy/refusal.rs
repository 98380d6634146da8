//! A worker's 503 or 429: how long it says to wait, and the answer itself while another worker is
//! asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::response::Response;
use bytes::Bytes;
use dynamo_namespace::Namespace;
use http::{HeaderMap, StatusCode, header, response};
use tokio::time::timeout;

use super::answer::{Answer, Head};
use super::headers;
use super::naming::Naming;
use super::served::Served;

/// How much of a refusal's body is kept.
pub(crate) const MOST: usize = 64 * 1024;
/// How long its body may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a worker turned a request down that another one may take.
pub(crate) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
}

/// For how long a worker says that it is full: the `Retry-After` of a 503, which is a number of
/// seconds or a date (RFC 9110 section 10.2.3).
pub(crate) fn is_full_for(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Beyond 64 bits it is as good as for ever.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A whole refusal. It is passed on when no other worker takes the request.
pub(crate) struct Refusal {
    pub(crate) served: Served,
    pub(crate) namespace: Option<Namespace>,
    parts: response::Parts,
    body: Bytes,
}

impl Refusal {
    /// Reads the rest of an answer. None if it breaks, is too large or takes too long.
    pub(crate) async fn read(head: Head) -> Option<Box<Self>> {
        let Head { response, model, connection, place, origin, naming, .. } = head;
        let (mut parts, ()) = response.into_parts();
        headers::for_client(&mut parts);
        if let Some(naming) = naming {
            naming.tell(&mut parts.headers);
        }
        let served = Served { model, worker: Arc::clone(place.upstream()) };
        parts.extensions.insert(served.clone());
        let answer = Answer::new(connection, place);
        let body = timeout(PATIENCE, answer.whole(MOST)).await.ok()??;
        Some(Box::new(Self {
            served,
            namespace: origin.map(|origin| origin.namespace),
            parts,
            body,
        }))
    }

    /// The same refusal, with what the client is told of the model.
    pub(crate) fn named(mut self: Box<Self>, naming: &Naming) -> Box<Self> {
        naming.tell(&mut self.parts.headers);
        self
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.parts.status
    }

    pub(crate) fn into_response(self) -> Response {
        Response::from_parts(self.parts, axum::body::Body::from(self.body))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn wait(status: u16, retry_after: &str) -> Option<u64> {
        let value = HeaderValue::from_str(retry_after).unwrap();
        let headers = [(header::RETRY_AFTER, value)].into_iter().collect();
        let status = StatusCode::from_u16(status).unwrap();
        is_full_for(status, &headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_503_says_in_seconds_or_by_a_date_how_long_it_is_full_and_a_429_does_not() {
        assert_eq!(wait(503, "7"), Some(7));
        assert_eq!(wait(503, " 0 "), Some(0));
        assert_eq!(wait(503, "99999999999999999999999"), Some(u64::MAX));
        assert_eq!(wait(503, "Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        let soon = SystemTime::now() + Duration::from_secs(3600);
        assert!(wait(503, &httpdate::fmt_http_date(soon)).unwrap() > 3000);
        for text in ["", "soon", "-1", "1.5"] {
            assert_eq!(wait(503, text), None, "{text:?}");
        }
        assert_eq!(wait(429, "7"), None);
        assert_eq!(is_full_for(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()), None);
    }
}
