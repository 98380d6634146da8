//! The dialects of event streams: the end marker and the error event of each route.

use bytes::Bytes;
use serde_json::json;
use smallvec::SmallVec;

use crate::error::ApiError;
use crate::route::Route;

#[cfg(test)]
mod tests;

/// A stream of server-sent events, followed while it passes.
///
/// Events are not parsed. The last bytes are kept, since an error event can be put only between two
/// events. Where the framing does not tell a whole stream from a broken one, the route's end marker is
/// looked for.
pub(crate) struct EventStream {
    dialect: Dialect,
    /// The last bytes that passed; empty at the start. They are part of this struct, since each token of a
    /// stream writes them, and an allocation would be one more cache line to fetch.
    tail: SmallVec<[u8; TAIL]>,
    /// Whether the route's end marker passed; `None` where the framing tells of the end.
    ended: Option<bool>,
    /// The last `sequence_number` that passed, on routes whose events have one.
    sequence: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    /// Chat and completions: `data: {"error":…}`; ends with `data: [DONE]`.
    OpenAi,
    /// Responses: `event: error`, flat; ends with `response.completed`.
    Responses,
    /// Messages: `event: error` in Anthropic's shape; ends with `message_stop`.
    Anthropic,
    /// No known error event, no known end.
    Other,
}

impl Dialect {
    fn of(route: Route) -> Self {
        match route {
            Route::ChatCompletions | Route::Completions => Self::OpenAi,
            Route::Responses => Self::Responses,
            Route::Messages => Self::Anthropic,
            _ => Self::Other,
        }
    }

    /// The end markers. A whole stream has one of them.
    fn end_markers(self) -> &'static [&'static [u8]] {
        match self {
            Self::OpenAi => &[b"data: [DONE]", b"data:[DONE]"],
            Self::Responses => &[b"response.completed", b"response.failed", b"response.incomplete"],
            Self::Anthropic => &[b"message_stop"],
            Self::Other => &[],
        }
    }
}

/// How many bytes are kept: more than a marker has, and than `"sequence_number":` with its number.
const TAIL: usize = 48;

impl EventStream {
    /// A stream of a route. `close_delimited` says that only the end of the connection ends it.
    pub(crate) fn new(route: Route, close_delimited: bool) -> Self {
        let dialect = Dialect::of(route);
        let watched = close_delimited && !dialect.end_markers().is_empty();
        Self { dialect, tail: SmallVec::new(), ended: watched.then_some(false), sequence: None }
    }

    /// Follows data that passes.
    pub(crate) fn pass(&mut self, data: &[u8]) {
        if self.ended == Some(false) {
            let ended =
                self.dialect.end_markers().iter().any(|marker| self.spots(marker, data).is_some());
            self.ended = Some(ended);
        }
        if self.dialect == Dialect::Responses {
            self.sequence = self.spots(br#""sequence_number":"#, data).or(self.sequence);
        }
        if data.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&data[data.len() - TAIL..]);
        } else {
            let excess = (self.tail.len() + data.len()).saturating_sub(TAIL);
            self.tail.drain(..excess);
            self.tail.extend_from_slice(data);
        }
    }

    /// The number behind the last `needle` in `data`, or where the kept bytes and `data` meet; 0 where
    /// no number is behind it.
    fn spots(&self, needle: &[u8], data: &[u8]) -> Option<u64> {
        let number = |rest: &[u8]| {
            let digits = rest.iter().skip_while(|byte| **byte == b' ');
            digits.take_while(|byte| byte.is_ascii_digit()).fold(0_u64, |n, digit| {
                n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            })
        };
        let last = |hay: &[u8]| {
            let at = hay.windows(needle.len()).rposition(|window| window == needle)?;
            Some(number(&hay[at + needle.len()..]))
        };
        last(data).or_else(|| {
            let seam: Vec<u8> = self.tail.iter().chain(data.iter().take(TAIL)).copied().collect();
            last(&seam)
        })
    }

    /// Whether the stream is whole if its connection ends now.
    pub(crate) fn may_end(&self) -> bool {
        self.ended != Some(false)
    }

    /// Whether what passed ends with a whole event. Only there something can be put into the stream.
    pub(crate) fn is_between_events(&self) -> bool {
        const ENDS: [&[u8]; 3] = [b"\n\n", b"\r\n\r\n", b"\r\r"];
        self.tail.is_empty() || ENDS.iter().any(|end| self.tail.ends_with(end))
    }

    /// The event that tells of a break. `None` where the route has none, and in the middle of an event.
    pub(crate) fn broken(&self, error: &ApiError) -> Option<Bytes> {
        if !self.is_between_events() {
            return None;
        }
        let event = match self.dialect {
            Dialect::OpenAi => format!("data: {}\n\n", error.to_json()),
            Dialect::Responses => {
                let data = json!({
                    "type": "error",
                    "code": error.code(),
                    "message": error.message(),
                    "param": null,
                    "sequence_number": self.sequence.map_or(0, |last| last + 1),
                });
                format!("event: error\ndata: {data}\n\n")
            }
            Dialect::Anthropic => format!("event: error\ndata: {}\n\n", error.to_json()),
            Dialect::Other => return None,
        };
        Some(event.into())
    }
}
