//! One line of the access log.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dynamo_http::AccessRecord;
use serde::Serialize;

#[cfg(test)]
mod tests;

/// Adds the line of a record to a buffer, with the newline at its end.
///
/// Every field is there in each line, `null` where there is nothing to tell. The names of the fields
/// are written as they are, since serde would look at each of their bytes for each line; each text goes
/// through `serde_json` if it has anything to escape.
pub(super) fn append(line: &mut Vec<u8>, record: &AccessRecord) {
    let AccessRecord { method, path, status, error, stream, .. } = record;
    line.extend_from_slice(b"{\"time\":\"");
    time(line, record.began);
    line.push(b'"');
    field(line, ",\"peer\":", |line| peer(line, record.client));
    field(line, ",\"request_id\":", |line| text(line, record.request_id.as_deref()));
    let trace = record.trace_id.as_ref().map(dynamo_http::TraceId::as_str);
    field(line, ",\"trace_id\":", |line| text(line, trace));
    field(line, ",\"key\":", |line| text(line, record.key.as_deref()));
    let namespace = record.namespace.as_ref().map(dynamo_namespace::Namespace::as_str);
    field(line, ",\"namespace\":", |line| text(line, namespace));
    field(line, ",\"model\":", |line| text(line, record.model_asked.as_deref()));
    field(line, ",\"model_served\":", |line| text(line, record.model_served.as_deref()));
    field(line, ",\"method\":", |line| text(line, Some(method)));
    field(line, ",\"route\":", |line| text(line, Some(path)));
    let worker = record.worker.as_ref().map(dynamo_discovery::WorkerUrl::as_str);
    field(line, ",\"worker\":", |line| text(line, worker));
    field(line, ",\"status\":", |line| json(line, &status.map(|status| status.as_u16())));
    field(line, ",\"error\":", |line| text(line, error.as_deref()));
    field(line, ",\"stream\":", |line| json(line, stream));
    field(line, ",\"bytes_in\":", |line| json(line, &record.bytes_in));
    field(line, ",\"bytes_out\":", |line| json(line, &record.bytes_out));
    let priority = record.priority.map(dynamo_http::Priority::name);
    field(line, ",\"priority\":", |line| text(line, priority));
    field(line, ",\"queue_ms\":", |line| milliseconds(line, Some(record.queued)));
    field(line, ",\"ttft_ms\":", |line| milliseconds(line, record.first_token));
    field(line, ",\"gap_ms\":", |line| milliseconds(line, Some(record.largest_gap)));
    field(line, ",\"total_ms\":", |line| milliseconds(line, Some(record.total)));
    field(line, ",\"tokens_in\":", |line| json(line, &record.input_tokens));
    field(line, ",\"tokens_cached\":", |line| json(line, &record.cached_tokens));
    field(line, ",\"tokens_out\":", |line| json(line, &record.output_tokens));
    field(line, ",\"tokens_estimated\":", |line| json(line, &record.is_estimated));
    field(line, ",\"attempts\":", |line| json(line, &record.attempts));
    field(line, ",\"outcome\":", |line| text(line, Some(record.end.name())));
    line.extend_from_slice(b"}\n");
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
    let needs_escape = |byte: &u8| (*byte < b' ') | (*byte == b'"') | (*byte == b'\\');
    if text.as_bytes().iter().fold(false, |needs, byte| needs | needs_escape(byte)) {
        return json(line, &text);
    }
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
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
        digits(line, micros % 1000, 3);
    }
}

/// The last digits of a number.
fn digits(line: &mut Vec<u8>, number: u64, count: u32) {
    line.extend((0..count).rev().map(|place| b'0' + (number / 10_u64.pow(place) % 10) as u8));
}

/// A time in UTC with milliseconds, as RFC 3339 has it: `2026-01-31T09:05:00.250Z`.
fn time(line: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    for (number, count, after) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (since.subsec_millis().into(), 3, b'Z'),
    ] {
        digits(line, number, count);
        line.push(after);
    }
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
