//! One line of the access log.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dynamo_http::AccessRecord;
use serde::Serialize;

#[cfg(test)]
mod tests;

/// What makes lines. It keeps the last second as text, since a busy frontend has many requests in one.
#[derive(Debug, Default)]
pub(super) struct Lines {
    second: Option<(u64, [u8; 20])>,
}

impl Lines {
    /// Adds the line of a record to a buffer, with the newline at its end.
    ///
    /// Every field is there in each line, `null` where there is nothing to tell. The names of the fields
    /// are written as they are, since serde would look at each of their bytes for each line; each text
    /// goes through `serde_json` if it has anything to escape.
    pub(super) fn append(&mut self, line: &mut Vec<u8>, record: &AccessRecord) {
        let AccessRecord { method, path, status, error, stream, .. } = record;
        line.extend_from_slice(b"{\"time\":\"");
        self.time(line, record.began);
        line.push(b'"');
        field(line, ",\"peer\":", |line| peer(line, record.client));
        field(line, ",\"request_id\":", |line| text(line, record.request_id.as_deref()));
        let trace = record.trace_id.as_ref().map(dynamo_http::TraceId::as_str);
        field(line, ",\"trace_id\":", |line| plain(line, trace));
        field(line, ",\"key\":", |line| text(line, record.key.as_deref()));
        let namespace = record.namespace.as_ref().map(dynamo_namespace::Namespace::as_str);
        field(line, ",\"namespace\":", |line| plain(line, namespace));
        field(line, ",\"model\":", |line| text(line, record.model_asked.as_deref()));
        field(line, ",\"model_served\":", |line| text(line, record.model_served.as_deref()));
        field(line, ",\"method\":", |line| known(line, method));
        field(line, ",\"route\":", |line| known(line, path));
        let worker = record.worker.as_ref().map(dynamo_discovery::WorkerUrl::as_str);
        field(line, ",\"worker\":", |line| text(line, worker));
        field(line, ",\"status\":", |line| json(line, &status.map(|status| status.as_u16())));
        field(line, ",\"error\":", |line| text(line, error.as_deref()));
        field(line, ",\"stream\":", |line| json(line, stream));
        field(line, ",\"bytes_in\":", |line| json(line, &record.bytes_in));
        field(line, ",\"bytes_out\":", |line| json(line, &record.bytes_out));
        let priority = record.priority.map(dynamo_http::Priority::name);
        field(line, ",\"priority\":", |line| plain(line, priority));
        field(line, ",\"queue_ms\":", |line| milliseconds(line, Some(record.queued)));
        field(line, ",\"ttft_ms\":", |line| milliseconds(line, record.first_token));
        field(line, ",\"gap_ms\":", |line| milliseconds(line, Some(record.largest_gap)));
        field(line, ",\"total_ms\":", |line| milliseconds(line, Some(record.total)));
        field(line, ",\"tokens_in\":", |line| json(line, &record.input_tokens));
        field(line, ",\"tokens_cached\":", |line| json(line, &record.cached_tokens));
        field(line, ",\"tokens_out\":", |line| json(line, &record.output_tokens));
        field(line, ",\"tokens_estimated\":", |line| json(line, &record.is_estimated));
        field(line, ",\"attempts\":", |line| json(line, &record.attempts));
        field(line, ",\"outcome\":", |line| plain(line, Some(record.end.name())));
        line.extend_from_slice(b"}\n");
    }

    /// A time in UTC with milliseconds, as RFC 3339 has it: `2026-01-31T09:05:00.250Z`.
    fn time(&mut self, line: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = match self.second {
            Some((second, text)) if second == since.as_secs() => text,
            _ => self.second.insert((since.as_secs(), second(since.as_secs()))).1,
        };
        line.extend_from_slice(&text);
        line.extend_from_slice(&digits::<3>(since.subsec_millis().into()));
        line.push(b'Z');
    }
}

fn field(line: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    line.extend_from_slice(name.as_bytes());
    value(line);
}

/// A text, escaped. It was cut where a client chose it.
fn text(line: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else { return line.extend_from_slice(b"null") };
    // Most texts have nothing to escape. To see that without a branch for each byte, and to copy the
    // text whole, takes a fraction of the time of an escape.
    if text.as_bytes().iter().fold(false, |needs, byte| needs | needs_escape(byte)) {
        return json(line, &text);
    }
    plain(line, Some(text));
}

/// A text that is a part of the program if it is borrowed, else one that a client chose.
#[expect(clippy::ptr_arg, reason = "whose text it is decides")]
fn known(line: &mut Vec<u8>, value: &Cow<'static, str>) {
    match value {
        Cow::Borrowed(value) => plain(line, Some(value)),
        Cow::Owned(value) => text(line, Some(value)),
    }
}

/// A text in which nothing needs an escape.
fn plain(line: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else { return line.extend_from_slice(b"null") };
    debug_assert!(!text.bytes().any(|byte| needs_escape(&byte)), "{text:?} needs an escape");
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

fn needs_escape(byte: &u8) -> bool {
    (*byte < b' ') | (*byte == b'"') | (*byte == b'\\')
}

fn json(line: &mut Vec<u8>, value: &impl Serialize) {
    // Neither a buffer in memory nor a number or a text can fail.
    let _ = serde_json::to_writer(line, value);
}

fn peer(line: &mut Vec<u8>, peer: Option<IpAddr>) {
    match peer {
        None => line.extend_from_slice(b"null"),
        Some(IpAddr::V4(address)) => {
            // By hand, since formatting costs as much as the rest of the line.
            let mut before = b'"';
            for octet in address.octets() {
                line.push(before);
                json(line, &octet);
                before = b'.';
            }
            line.push(b'"');
        }
        Some(IpAddr::V6(address)) => {
            let _ = write!(line, "\"{address}\"");
        }
    }
}

/// Milliseconds, to the microsecond.
fn milliseconds(line: &mut Vec<u8>, time: Option<Duration>) {
    let Some(time) = time else { return line.extend_from_slice(b"null") };
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    json(line, &(micros / 1000));
    if micros % 1000 > 0 {
        line.push(b'.');
        line.extend_from_slice(&digits::<3>(micros % 1000));
    }
}

/// The last digits of a number.
fn digits<const COUNT: usize>(mut number: u64) -> [u8; COUNT] {
    let mut digits = [b'0'; COUNT];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// A second after 1970, up to the point before its fractions: `2026-01-31T09:05:00.`.
fn second(second: u64) -> [u8; 20] {
    let (days, second) = (second / 86_400, second % 86_400);
    let (year, month, day) = date(days);
    let mut text = *b"0000-00-00T00:00:00.";
    text[0..4].copy_from_slice(&digits::<4>(year));
    let pairs =
        [(5, month), (8, day), (11, second / 3600), (14, second / 60 % 60), (17, second % 60)];
    for (at, number) in pairs {
        text[at..at + 2].copy_from_slice(&digits::<2>(number));
    }
    text
}

/// Year, month and day of a day after 1970-01-01: Howard Hinnant's `civil_from_days`, in which a year
/// begins in March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}
