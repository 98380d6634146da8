//! Replaces the model's name in an answer by the name that the client asked for.
//!
//! A plain answer has the name in the member `model` of its object. In a stream each event may have it
//! there, or one level deeper: in `message` on `/v1/messages`, in `response` on `/v1/responses`. A name
//! of a member that is spelled with escapes is not found; no engine writes one.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr2, memmem};

use super::edit::Edits;
use super::json;
use super::outline::numbers;
use crate::route::Route;

#[cfg(test)]
mod tests;

const MODEL: &[u8] = b"model";

/// Replaces the value of `model` in a JSON object that arrives in pieces.
///
/// Only a string is replaced, and only the first `model`. All other bytes pass as they come. The text is
/// not checked: behind a byte that no JSON has there, anything may pass.
#[derive(Debug)]
pub(crate) struct PlainRename {
    new: Bytes,
    at: At,
}

/// Where the next byte is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Before the object.
    Before,
    /// In the object, where a member may begin.
    Member,
    /// In a member's name, of which so many bytes are those of `model`. None: it is another name.
    Name { matched: Option<usize>, escaped: bool },
    /// Behind a member's name.
    Behind { is_model: bool },
    /// In a member's value, in which so many values are open.
    Value { depth: u32 },
    /// In a string of a member's value.
    Text { depth: u32, escaped: bool },
    /// In the string that is replaced.
    Old { escaped: bool },
    /// Behind the name, or where there can be none.
    Done,
}

impl PlainRename {
    /// `new` is the name that the client asked for, as a JSON string.
    pub(crate) fn new(new: Bytes) -> Self {
        Self { new, at: At::Before }
    }

    /// Takes the next piece, and returns what goes on in its place.
    pub(crate) fn pass(&mut self, data: Bytes) -> Bytes {
        let mut old = None::<Range<usize>>;
        if matches!(self.at, At::Old { .. }) {
            old = Some(0..data.len());
        }
        let mut begins = false;
        let mut at = 0;
        while at < data.len() {
            let byte = data[at];
            let from = at;
            at += 1;
            self.at = match self.at {
                At::Done => break,
                At::Before if byte.is_ascii_whitespace() => At::Before,
                At::Before if byte == b'{' => At::Member,
                At::Before => At::Done,
                At::Member => match byte {
                    b'"' => At::Name { matched: Some(0), escaped: false },
                    b',' => At::Member,
                    byte if byte.is_ascii_whitespace() => At::Member,
                    _ => At::Done,
                },
                At::Name { escaped: true, .. } => At::Name { matched: None, escaped: false },
                At::Name { matched, .. } => match byte {
                    b'"' => At::Behind { is_model: matched == Some(MODEL.len()) },
                    b'\\' => At::Name { matched: None, escaped: true },
                    _ => {
                        let goes_on = |so_far: &usize| MODEL.get(*so_far) == Some(&byte);
                        let matched = matched.filter(goes_on).map(|so_far| so_far + 1);
                        At::Name { matched, escaped: false }
                    }
                },
                At::Behind { is_model } => match byte {
                    b':' => At::Behind { is_model },
                    byte if byte.is_ascii_whitespace() => At::Behind { is_model },
                    b'"' if is_model => {
                        (old, begins) = (Some(from..data.len()), true);
                        At::Old { escaped: false }
                    }
                    _ if is_model => At::Done,
                    b'"' => At::Text { depth: 0, escaped: false },
                    b'{' | b'[' => At::Value { depth: 1 },
                    _ => At::Value { depth: 0 },
                },
                At::Value { depth } => match byte {
                    b'"' => At::Text { depth, escaped: false },
                    b'{' | b'[' => At::Value { depth: depth.saturating_add(1) },
                    b'}' | b']' if depth == 0 => At::Done,
                    b'}' | b']' => At::Value { depth: depth - 1 },
                    b',' if depth == 0 => At::Member,
                    b',' => {
                        at += numbers(&data[at..]);
                        At::Value { depth }
                    }
                    _ => At::Value { depth },
                },
                At::Text { depth, escaped: true } => At::Text { depth, escaped: false },
                At::Text { depth, .. } => match next_in_string(&data, from, &mut at) {
                    None => At::Text { depth, escaped: false },
                    Some(b'"') => At::Value { depth },
                    Some(_) => At::Text { depth, escaped: true },
                },
                At::Old { escaped: true } => At::Old { escaped: false },
                At::Old { .. } => match next_in_string(&data, from, &mut at) {
                    None => At::Old { escaped: false },
                    Some(b'"') => {
                        old = old.map(|old| old.start..at);
                        At::Done
                    }
                    Some(_) => At::Old { escaped: true },
                },
            };
        }
        let Some(old) = old else { return data };
        let new = if begins { &self.new[..] } else { b"" };
        let mut out = BytesMut::with_capacity(data.len() - old.len() + new.len());
        out.extend_from_slice(&data[..old.start]);
        out.extend_from_slice(new);
        out.extend_from_slice(&data[old.end..]);
        out.freeze()
    }
}

/// Goes on to behind the next quote or backslash of a string, and returns that byte; or to the end of the
/// data.
fn next_in_string(data: &[u8], from: usize, at: &mut usize) -> Option<u8> {
    let found = memchr2(b'"', b'\\', &data[from..]).map(|found| from + found);
    *at = found.map_or(data.len(), |found| found + 1);
    found.map(|found| data[found])
}

/// Replaces the model's name in the events of a stream.
#[derive(Debug)]
pub(crate) struct EventRename {
    new: Bytes,
    /// The member whose object may have the name as well.
    inside: Option<&'static str>,
}

impl EventRename {
    /// `new` is the name that the client asked for, as a JSON string.
    pub(crate) fn new(new: Bytes, route: Route) -> Self {
        let inside = match route {
            Route::Messages => Some("message"),
            Route::Responses => Some("response"),
            _ => None,
        };
        Self { new, inside }
    }

    /// The event with the other name; none if it has no name.
    pub(crate) fn edit(&self, event: &[u8]) -> Option<Bytes> {
        memmem::find(event, b"\"model\"")?;
        let data = Data::of(event);
        let text = simdutf8::basic::from_utf8(&data.joined).ok()?;
        let mut names = Vec::new();
        let mut inner = None;
        json::walk(text, |name, place| match name {
            "\"model\"" => names.push(place),
            name if self.inside.is_some_and(|inside| is_name(name, inside)) => inner = Some(place),
            _ => {}
        })
        .ok()?;
        if let Some(object) = inner {
            let _ = json::walk(&text[object.clone()], |name, place| {
                if name == "\"model\"" {
                    names.push(object.start + place.start..object.start + place.end);
                }
            });
        }
        let mut edits = Edits::default();
        for name in names.iter().filter(|name| text[(*name).clone()].starts_with('"')) {
            // A string has no line feed, so it lies in one line.
            edits.replace(data.in_event(name), self.new.clone());
        }
        (!edits.is_empty()).then(|| edits.copy(event))
    }
}

/// Whether a raw name of a member is this one.
fn is_name(raw: &str, name: &str) -> bool {
    raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) == Some(name)
}

/// The data of an event: the values of its fields `data`, joined by line feeds.
struct Data {
    joined: Vec<u8>,
    /// Where each value begins in `joined`, and where in the event.
    lines: Vec<(usize, usize)>,
}

impl Data {
    fn of(event: &[u8]) -> Self {
        let mut data = Self { joined: Vec::new(), lines: Vec::new() };
        // A byte order mark may begin a stream.
        let mut at = if event.starts_with("\u{feff}".as_bytes()) { "\u{feff}".len() } else { 0 };
        while at < event.len() {
            let rest = &event[at..];
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            if let Some(value) = rest[..end].strip_prefix(b"data:") {
                if !data.lines.is_empty() {
                    data.joined.push(b'\n');
                }
                let value = value.strip_prefix(b" ").unwrap_or(value);
                data.lines.push((data.joined.len(), at + end - value.len()));
                data.joined.extend_from_slice(value);
            }
            at += end + 1;
        }
        data
    }

    /// The place in the event of bytes in one line of the data.
    fn in_event(&self, place: &Range<usize>) -> Range<usize> {
        let line = self.lines.partition_point(|(joined, _)| *joined <= place.start);
        let (joined, event) = line.checked_sub(1).map_or((0, 0), |line| self.lines[line]);
        event + place.start - joined..event + place.end - joined
    }
}
