//! The session of a request: the conversation that it belongs to, as its client names it.

use http::{HeaderMap, HeaderName};

/// Headers in which clients name their sessions, beside the configured one. Of several, the first one in
/// this list counts.
const HEADERS: [&str; 9] = [
    "x-session-id",
    "x-session-affinity",
    "x-claude-code-session-id",
    "session_id",
    "session-id",
    "thread-id",
    "x-opencode-session",
    "x-dynamo-session-id",
    "x-smg-routing-key",
];

/// The name of a request's session: the value of the configured header, else of another one, else of a
/// member of the body. A request id or a trace id names no session, nor does `user`. An empty name is none.
pub(super) fn of(
    headers: &HeaderMap,
    configured: &HeaderName,
    in_body: Option<&str>,
) -> Option<Vec<u8>> {
    // A request has few headers, so one pass over them is cheaper than a look-up of each name.
    let ranked =
        headers.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
            let rank = match name == configured {
                true => 0,
                false => 1 + HEADERS.iter().position(|other| *other == name.as_str())?,
            };
            Some((rank, value))
        });
    let by_header = ranked.min_by_key(|(rank, _)| *rank).map(|(_, value)| value.as_bytes());
    let by_body = in_body.map(str::as_bytes).filter(|name| !name.is_empty());
    by_header.or(by_body).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CONFIGURED: HeaderName = HeaderName::from_static("x-affinity");

    fn session(headers: &[(&'static str, &'static str)], in_body: Option<&str>) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        of(&map, &CONFIGURED, in_body).map(|name| String::from_utf8(name).unwrap())
    }

    #[test]
    fn the_configured_header_comes_first_then_the_known_ones_in_their_order_then_the_body() {
        let all = [("thread-id", "3"), ("x-session-id", "2"), ("x-affinity", "1")];
        assert_eq!(session(&all, Some("4")).as_deref(), Some("1"));
        assert_eq!(session(&all[..2], Some("4")).as_deref(), Some("2"));
        assert_eq!(session(&all[..1], Some("4")).as_deref(), Some("3"));
        assert_eq!(session(&[("x-request-id", "5")], Some("4")).as_deref(), Some("4"));
        assert_eq!(session(&[("x-request-id", "5"), ("user", "6")], None), None);
    }

    #[test]
    fn an_empty_name_names_nothing_and_of_one_header_the_first_value_counts() {
        let values = [("x-affinity", ""), ("x-session-id", "1"), ("x-session-id", "2")];
        assert_eq!(session(&values, Some("")).as_deref(), Some("1"));
        assert_eq!(session(&values[..1], Some("")), None);
    }
}
