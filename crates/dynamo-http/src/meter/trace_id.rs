//! The ids of traces and spans, and the header that carries them (W3C Trace Context).

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::random;

/// The header with the trace and the span of the caller.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what vendors add, which means nothing without a valid `traceparent`.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The id of a trace: 32 lowercase hexadecimal digits, not all of them 0.
#[derive(Clone, Copy, PartialEq, Eq, derive_more::Debug)]
#[debug("{}", self.as_str())]
pub struct TraceId([u8; 32]);

/// The id of a span: 16 lowercase hexadecimal digits, not all of them 0.
#[derive(Clone, Copy, PartialEq, Eq, derive_more::Debug)]
#[debug("{}", self.as_str())]
pub struct SpanId([u8; 16]);

/// A valid `traceparent`.
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) is_sampled: bool,
}

impl TraceId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id in a `traceparent`, if that is valid (W3C Trace Context, section 3.2).
    pub fn from_traceparent(value: &[u8]) -> Option<Self> {
        Parent::read(value).map(|parent| parent.trace)
    }

    pub(super) fn random() -> Self {
        let digits = digits(random::id(|ids| ids.u128(1..)));
        Self(digits)
    }
}

impl SpanId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id of the caller's span in a `traceparent`, if that is valid.
    pub fn from_traceparent(value: &[u8]) -> Option<Self> {
        Parent::read(value).map(|parent| parent.span)
    }

    pub(super) fn random() -> Self {
        Self(digits(random::id(|ids| ids.u64(1..)).into()))
    }
}

/// The last hexadecimal digits of a number.
fn digits<const COUNT: usize>(number: u128) -> [u8; COUNT] {
    std::array::from_fn(|place| {
        let digit = number >> (4 * (COUNT - 1 - place)) & 0xf;
        b"0123456789abcdef"[digit as usize]
    })
}

impl Parent {
    /// The only `traceparent` among these headers.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none());
        value.and_then(|value| Self::read(value.as_bytes()))
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let is_hex =
            |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_some = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
        let (known, rest) = value.split_at_checked(55)?;
        let (version, trace, span, flags) =
            (&known[..2], &known[3..35], &known[36..52], &known[53..]);
        let has_dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let may_go_on = rest.is_empty() || (version != b"00" && rest[0] == b'-');
        let is_valid = has_dashes
            && may_go_on
            && version != b"ff"
            && [version, trace, span, flags].into_iter().all(is_hex)
            && is_some(trace)
            && is_some(span);
        if !is_valid {
            return None;
        }
        Some(Self {
            trace: TraceId(trace.try_into().ok()?),
            span: SpanId(span.try_into().ok()?),
            // The last bit.
            is_sampled: matches!(flags[1], b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f'),
        })
    }
}

/// The trace that a request's headers name.
pub(super) fn trace_of(headers: &HeaderMap) -> Option<TraceId> {
    Parent::of(headers).map(|parent| parent.trace)
}

/// A `traceparent`.
pub(super) fn traceparent(trace: TraceId, span: SpanId, is_sampled: bool) -> Option<HeaderValue> {
    let flags = if is_sampled { b"-01" } else { b"-00" };
    let parts = [b"00-", &trace.0[..], b"-", &span.0, flags];
    HeaderValue::from_bytes(&parts.concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn random_ids_do_not_depend_on_the_seed_of_fastrand_which_is_the_time() {
        let seeded = || {
            fastrand::seed(1);
            (TraceId::random(), SpanId::random())
        };
        let (one, other) = (seeded(), seeded());
        assert!(one.0 != other.0 && one.1 != other.1);
    }

    #[test]
    fn a_trace_is_that_of_a_valid_parent() {
        let of =
            |value: &str| TraceId::from_traceparent(value.as_bytes()).map(|id| format!("{id:?}"));
        for valid in [
            format!("00-{ID}-{SPAN}-01"),
            format!("00-{ID}-{SPAN}-00"),
            // A version to come may have more parts.
            format!("cc-{ID}-{SPAN}-01-more"),
            format!("cc-{ID}-{SPAN}-01"),
        ] {
            assert_eq!(of(&valid).as_deref(), Some(ID), "{valid}");
        }
        for invalid in [
            String::new(),
            ID.to_owned(),
            format!("00-{ID}-{SPAN}-0"),
            format!("00-{ID}-{SPAN}-01-more"),
            format!("cc-{ID}-{SPAN}-01more"),
            format!("ff-{ID}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", ID.to_uppercase()),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00_{ID}-{SPAN}-01"),
            format!("00-{ID}-00f067aa0ba902b\n-01"),
            "\u{1f600}".repeat(20),
        ] {
            assert_eq!(of(&invalid), None, "{invalid}");
        }
    }
}
