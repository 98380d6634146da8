//! The one place where a stream of server-sent events is read, and may be edited, on its way.
//!
//! It knows where events end, by the rules of the HTML standard (server-sent events, "parsing an
//! event stream"): a line ends with LF, CR or CRLF, and an empty line ends an event.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The longest event that is held until its end has come, in bytes. Longer ones pass unread.
const MAX_EVENT: usize = 64 * 1024;

/// Reads the events of a stream.
pub(crate) trait Reader: Send {
    /// Sees a whole event, with the empty line that ends it, and decides what becomes of it.
    fn event(&mut self, event: &[u8]) -> Verdict;
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "no feature reads answers yet"))]
pub(crate) enum Verdict {
    /// The client gets it as it came.
    Pass,
    /// The client does not get it.
    Drop,
    /// The client gets this in its place.
    Replace(Bytes),
}

/// Cuts a stream into events and shows each to its reader. An event is held until its end has come,
/// since it may be edited.
pub(crate) struct Stage {
    reader: Box<dyn Reader>,
    ends: Ends,
    /// The beginning of an event whose end has not come.
    held: BytesMut,
    /// Whether the event that passes now is too long to be held.
    too_long: bool,
    /// Whether the last event did not pass as it came, so that the rest of its line end does not pass.
    dropped: bool,
    /// How many events were too long.
    unread: u64,
}

impl Stage {
    /// A stage for this reader. Where nobody reads there is no stage.
    pub(crate) fn new(reader: Option<Box<dyn Reader>>) -> Option<Self> {
        Some(Self {
            reader: reader?,
            ends: Ends::default(),
            held: BytesMut::new(),
            too_long: false,
            dropped: false,
            unread: 0,
        })
    }

    /// How many events passed unread because they were too long.
    #[cfg_attr(not(test), expect(dead_code, reason = "told with the first reader"))]
    pub(crate) fn unread(&self) -> u64 {
        self.unread
    }

    /// Takes data in, and returns what of the stream may go on to the client now.
    pub(crate) fn pass(&mut self, data: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.held.len() + data.len());
        let mut rest = data;
        loop {
            if self.ends.finish_line_end(&mut rest) && !self.dropped {
                out.extend_from_slice(b"\n");
            }
            let Some(end) = self.ends.next(rest) else { break };
            let (event, later) = rest.split_at(end);
            self.end_event(event, &mut out);
            rest = later;
        }
        self.release_if_too_long(rest.len(), &mut out);
        if self.too_long { &mut out } else { &mut self.held }.extend_from_slice(rest);
        out.freeze()
    }

    /// What is held when the stream ends, which is no whole event.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }

    /// Holds an event no longer that has so many bytes more than may be held.
    fn release_if_too_long(&mut self, more: usize, out: &mut BytesMut) {
        if !self.too_long && self.held.len() + more > MAX_EVENT {
            self.too_long = true;
            self.unread += 1;
            out.extend_from_slice(&self.held.split());
        }
    }

    fn end_event(&mut self, end: &[u8], out: &mut BytesMut) {
        self.release_if_too_long(end.len(), out);
        if std::mem::take(&mut self.too_long) {
            self.dropped = false;
            out.extend_from_slice(end);
            return;
        }
        let held = self.held.split();
        let joined;
        let event = if held.is_empty() {
            end
        } else {
            joined = [&held, end].concat();
            &joined
        };
        let verdict = self.reader.event(event);
        // Of an event that was not passed as it came, no rest may follow.
        self.dropped = verdict != Verdict::Pass;
        match verdict {
            Verdict::Pass => out.extend_from_slice(event),
            Verdict::Drop => {}
            Verdict::Replace(new) => out.extend_from_slice(&new),
        }
    }
}

/// Finds the ends of events in a stream that comes in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ends {
    /// A line begins.
    #[default]
    Start,
    /// The line has a byte.
    InLine,
    /// CR has ended a line: an LF behind it belongs to it.
    Cr,
    /// CR has ended an event: an LF behind it belongs to it.
    EventCr,
}

impl Ends {
    /// Where the next event ends in `data`, if it does. An LF that belongs to its last line end is
    /// left to [`finish_line_end`](Self::finish_line_end).
    fn next(&mut self, data: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if *self == Self::Cr && data.get(at) == Some(&b'\n') {
                *self = Self::Start;
                at += 1;
            }
            let Some(length) = memchr2(b'\n', b'\r', &data[at..]) else {
                if at < data.len() {
                    *self = Self::InLine;
                }
                return None;
            };
            let is_empty = length == 0 && *self != Self::InLine;
            at += length + 1;
            let by_cr = data[at - 1] == b'\r';
            *self = match (by_cr, is_empty) {
                (false, _) => Self::Start,
                (true, false) => Self::Cr,
                (true, true) => Self::EventCr,
            };
            if is_empty {
                return Some(at);
            }
        }
    }

    /// Takes the LF of a CRLF whose CR has ended an event; returns whether there was one.
    fn finish_line_end(&mut self, data: &mut &[u8]) -> bool {
        if *self != Self::EventCr || data.is_empty() {
            return false;
        }
        *self = Self::Start;
        let rest = data.strip_prefix(b"\n");
        *data = rest.unwrap_or(data);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// Drops events with a `d`, replaces events with an `r`, and notes all.
    #[derive(Clone, Default)]
    struct Editor(Arc<Mutex<Vec<String>>>);

    impl Reader for Editor {
        fn event(&mut self, event: &[u8]) -> Verdict {
            let text = String::from_utf8(event.to_vec()).unwrap();
            let verdict = if text.contains('d') {
                Verdict::Drop
            } else if text.contains('r') {
                Verdict::Replace("new\n\n".into())
            } else {
                Verdict::Pass
            };
            self.0.lock().unwrap().push(text.trim_end().to_owned());
            verdict
        }
    }

    /// What passes, and the events that were seen, of a stream in pieces.
    fn pass(pieces: &[&[u8]]) -> (String, Vec<String>) {
        let editor = Editor::default();
        let mut stage = Stage::new(Some(Box::new(editor.clone()))).unwrap();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| stage.pass(piece)).collect();
        out.extend_from_slice(&stage.finish());
        let events = editor.0.lock().unwrap().clone();
        (String::from_utf8(out).unwrap(), events)
    }

    #[test]
    fn events_are_passed_dropped_and_replaced_whole() {
        for end in ["\n", "\r", "\r\n"] {
            let text = "a: 1|b|| d|| r|| a|".replace('|', end);
            let expected = format!("{}new\n\n a|", "a: 1|b||").replace('|', end);
            let (out, events) = pass(&[text.as_bytes()]);
            assert_eq!(out, expected, "{end:?}");
            assert_eq!(events, ["a: 1|b".replace('|', end), " d".into(), " r".into()]);
        }
    }

    #[test]
    fn where_nobody_reads_there_is_no_stage() {
        assert!(Stage::new(None).is_none());
    }

    #[test]
    fn an_event_that_is_too_long_passes_unread_and_is_counted() {
        let editor = Editor::default();
        let mut stage = Stage::new(Some(Box::new(editor.clone()))).unwrap();
        let text = format!("{}\n\nd\n\n", "d".repeat(MAX_EVENT + 1));
        let out: Vec<u8> =
            text.as_bytes().chunks(999).flat_map(|piece| stage.pass(piece)).collect();
        assert_eq!(out.len(), MAX_EVENT + 3);
        assert_eq!(
            (editor.0.lock().unwrap().as_slice(), stage.unread()),
            (&["d".to_owned()][..], 1)
        );
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_does_not_matter(
            text in "([adr]{0,3}(\n|\r|\r\n){0,3}){0,8}",
            cuts in proptest::collection::vec(1_usize..4, 1..30),
        ) {
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            prop_assert_eq!(pass(&pieces), pass(&[text.as_bytes()]));
        }

        #[test]
        fn a_reader_that_passes_all_changes_no_byte(
            text in "(a{0,3}(\n|\r|\r\n){0,3}){0,8}",
        ) {
            for cut in 0..=text.len() {
                let (one, other) = text.as_bytes().split_at(cut);
                prop_assert_eq!(&pass(&[one, other]).0, &text);
            }
        }
    }
}
