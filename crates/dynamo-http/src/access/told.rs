//! What a client is told of the limits of its own key: the headers of answers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::budget::Counted;
use super::ledger::Share;
use super::window::rfc3339;
use crate::error::ErrorShape;

/// How the headers of limits begin.
const PREFIXES: [&str; 2] = ["x-ratelimit-", "anthropic-ratelimit-"];

/// Removes the headers of limits that a worker has sent. They tell of the worker's own account, which
/// all callers use together.
pub(super) fn take_out(headers: &mut HeaderMap) {
    let is_of_limits =
        |name: &HeaderName| PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
    while let Some(name) = headers.keys().find(|name| is_of_limits(name)).cloned() {
        headers.remove(name);
    }
}

/// The shares of a key's limits that are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    requests: Option<Share>,
    /// Of all limits on tokens, the one of which the smallest part is left.
    tokens: Option<Share>,
    /// The same of the limits on input, and of those on output.
    by_direction: [Option<Share>; 2],
}

impl Told {
    pub(super) fn new(
        requests: Option<Share>,
        tokens: impl Iterator<Item = (Counted, Share)>,
    ) -> Self {
        let mut told = Self { requests, ..Self::default() };
        for (counted, share) in tokens {
            least(&mut told.tokens, share);
            match counted {
                Counted::All => {}
                Counted::Input => least(&mut told.by_direction[0], share),
                Counted::Output => least(&mut told.by_direction[1], share),
            }
        }
        told
    }

    /// Puts the headers of these shares into an answer. `wall` is the time since 1970.
    pub(super) fn put(&self, headers: &mut HeaderMap, shape: ErrorShape, wall: Duration) {
        let reset = |share: &Share| match shape {
            ErrorShape::OpenAi => duration(share.resets_in),
            ErrorShape::Anthropic => rfc3339(wall.saturating_add(share.resets_in)),
        };
        let mut put = |names: [&'static str; 3], share: Option<Share>| {
            let Some(share) = share else { return };
            let [limit, remaining, resets] = names.map(HeaderName::from_static);
            headers.insert(limit, HeaderValue::from(share.limit));
            headers.insert(remaining, HeaderValue::from(share.remaining));
            if let Ok(reset) = HeaderValue::try_from(reset(&share)) {
                headers.insert(resets, reset);
            }
        };
        match shape {
            ErrorShape::OpenAi => {
                put(
                    [
                        "x-ratelimit-limit-requests",
                        "x-ratelimit-remaining-requests",
                        "x-ratelimit-reset-requests",
                    ],
                    self.requests,
                );
                put(
                    [
                        "x-ratelimit-limit-tokens",
                        "x-ratelimit-remaining-tokens",
                        "x-ratelimit-reset-tokens",
                    ],
                    self.tokens,
                );
            }
            ErrorShape::Anthropic => {
                put(
                    [
                        "anthropic-ratelimit-requests-limit",
                        "anthropic-ratelimit-requests-remaining",
                        "anthropic-ratelimit-requests-reset",
                    ],
                    self.requests,
                );
                put(
                    [
                        "anthropic-ratelimit-tokens-limit",
                        "anthropic-ratelimit-tokens-remaining",
                        "anthropic-ratelimit-tokens-reset",
                    ],
                    self.tokens,
                );
                put(
                    [
                        "anthropic-ratelimit-input-tokens-limit",
                        "anthropic-ratelimit-input-tokens-remaining",
                        "anthropic-ratelimit-input-tokens-reset",
                    ],
                    self.by_direction[0],
                );
                put(
                    [
                        "anthropic-ratelimit-output-tokens-limit",
                        "anthropic-ratelimit-output-tokens-remaining",
                        "anthropic-ratelimit-output-tokens-reset",
                    ],
                    self.by_direction[1],
                );
            }
        }
    }
}

fn least(least: &mut Option<Share>, share: Share) {
    if least.as_ref().is_none_or(|least| share.is_less_than(least)) {
        *least = Some(share);
    }
}

/// A duration as OpenAI writes it, which is Go's way: `6m0s`, `1s`, `20ms`. It is rounded up.
fn duration(time: Duration) -> String {
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    if milliseconds < 1000 {
        return if milliseconds == 0 { "0s".into() } else { format!("{milliseconds}ms") };
    }
    let seconds = milliseconds.div_ceil(1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(limit: u64, remaining: u64, seconds: u64) -> Share {
        Share { limit, remaining, resets_in: Duration::from_secs(seconds) }
    }

    fn shown(told: Told, shape: ErrorShape) -> Vec<String> {
        let mut headers = HeaderMap::new();
        told.put(&mut headers, shape, Duration::from_secs(86_400));
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn the_limit_is_told_of_which_the_smallest_part_is_left() {
        let tokens = [
            (Counted::All, share(1_000_000, 500_000, 3600)),
            (Counted::Input, share(100, 49, 60)),
            (Counted::Output, share(10, 10, 0)),
        ];
        let told = Told::new(Some(share(60, 59, 1)), tokens.into_iter());
        assert_eq!(
            shown(told, ErrorShape::OpenAi),
            [
                "x-ratelimit-limit-requests: 60",
                "x-ratelimit-limit-tokens: 100",
                "x-ratelimit-remaining-requests: 59",
                "x-ratelimit-remaining-tokens: 49",
                "x-ratelimit-reset-requests: 1s",
                "x-ratelimit-reset-tokens: 1m0s",
            ]
        );
        assert_eq!(
            shown(told, ErrorShape::Anthropic),
            [
                "anthropic-ratelimit-input-tokens-limit: 100",
                "anthropic-ratelimit-input-tokens-remaining: 49",
                "anthropic-ratelimit-input-tokens-reset: 1970-01-02T00:01:00Z",
                "anthropic-ratelimit-output-tokens-limit: 10",
                "anthropic-ratelimit-output-tokens-remaining: 10",
                "anthropic-ratelimit-output-tokens-reset: 1970-01-02T00:00:00Z",
                "anthropic-ratelimit-requests-limit: 60",
                "anthropic-ratelimit-requests-remaining: 59",
                "anthropic-ratelimit-requests-reset: 1970-01-02T00:00:01Z",
                "anthropic-ratelimit-tokens-limit: 100",
                "anthropic-ratelimit-tokens-remaining: 49",
                "anthropic-ratelimit-tokens-reset: 1970-01-02T00:01:00Z",
            ]
        );
        let none = Told::new(None, std::iter::empty());
        assert!(shown(none, ErrorShape::OpenAi).is_empty());
    }

    #[test]
    fn durations_are_written_as_openai_does() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000_000, "20ms"),
            (999_000_001, "1s"),
            (1_000_000_000, "1s"),
            (1_000_000_001, "2s"),
            (360_000_000_000, "6m0s"),
            (2_592_000_000_000_000, "720h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), expected);
        }
        assert!(duration(Duration::MAX).ends_with('s'));
    }

    #[test]
    fn all_headers_of_a_workers_limits_go_and_no_others() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-ratelimit-limit-requests",
            "x-ratelimit-anything",
            "anthropic-ratelimit-tokens-reset",
            "x-rate",
            "retry-after",
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("2"));
        }
        take_out(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["retry-after", "x-rate"]);
    }
}
