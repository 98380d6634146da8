//! Reads and edits the events of a stream on its way to the client.
//!
//! Events end by the rules of the HTML standard (server-sent events, "parsing an event stream"): a line
//! ends with LF, CR or CRLF, and an empty line ends an event.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The longest event that is kept until its end arrives, in bytes. Longer events pass unread.
const MAX_EVENT: usize = 64 * 1024;

/// Reads the events of a stream.
pub(crate) trait Reader {
    /// Reads a whole event, with the empty line that ends it, and decides whether it passes. The last
    /// event of a stream may lack its end.
    fn event(&mut self, event: &[u8]) -> Verdict;

    /// Reads the events at the beginning of `data`, as far as one glance at each shows that it is whole,
    /// that its last bytes are two line feeds, and that it passes. Returns how many bytes these events
    /// have.
    fn glance(&mut self, data: &[u8]) -> usize;
}

/// Whether an event passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client gets the event as it came.
    Pass,
    /// The client does not get the event.
    Drop,
    /// The client gets these bytes in place of the event.
    Replace(Bytes),
}

/// Cuts a stream into events and shows each event to a reader.
///
/// Where the reader may take events out, an event is held until its end arrives. Else the stream passes
/// as it comes, and the beginning of an event is copied only if its end is in a later piece.
#[derive(Debug)]
pub(crate) struct Stage<R> {
    reader: R,
    /// Whether the reader's verdicts count.
    edits: bool,
    ends: Ends,
    /// The beginning of an event whose end has not arrived.
    held: Vec<u8>,
    /// Whether the current event is too long to be kept.
    too_long: bool,
    /// Whether the last event went without a CR at its end. An LF behind that CR is dropped then.
    dropped: bool,
    /// How many events were too long.
    unread: u64,
}

impl<R: Reader> Stage<R> {
    /// A stage whose reader only looks.
    pub(crate) fn watching(reader: R) -> Self {
        Self {
            reader,
            edits: false,
            ends: Ends::default(),
            held: Vec::new(),
            too_long: false,
            dropped: false,
            unread: 0,
        }
    }

    /// A stage whose reader may take events out.
    pub(crate) fn editing(reader: R) -> Self {
        Self { edits: true, ..Self::watching(reader) }
    }

    pub(crate) fn reader(&self) -> &R {
        &self.reader
    }

    /// Whether the bytes that pass may differ from those that came.
    pub(crate) fn edits(&self) -> bool {
        self.edits
    }

    /// How many events passed unread because they were too long.
    pub(crate) fn unread(&self) -> u64 {
        self.unread
    }

    /// Takes data, and returns the bytes that may go on to the client now.
    pub(crate) fn pass(&mut self, data: Bytes) -> Bytes {
        let seen = self.glance(&data);
        let (passed, rest) = data.split_at(seen);
        if rest.is_empty() {
            return data;
        }
        if self.edits {
            let mut out = BytesMut::with_capacity(self.held.len() + data.len());
            out.put(passed);
            self.cut(rest, &mut out);
            out.freeze()
        } else {
            self.cut(rest, &mut Passed);
            data
        }
    }

    /// Reads events that one glance each shows to pass. Returns how many bytes they have.
    fn glance(&mut self, data: &[u8]) -> usize {
        if self.is_between_events() { self.reader.glance(data) } else { 0 }
    }

    /// Ends the stream. Returns the bytes that are still held: the beginning of an event, unless the
    /// reader takes it for a whole one and drops it.
    pub(crate) fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Bytes::new();
        }
        match self.reader.event(&held) {
            _ if !self.edits => Bytes::new(),
            Verdict::Pass => held.into(),
            Verdict::Drop => Bytes::new(),
            Verdict::Replace(new) => new,
        }
    }

    fn is_between_events(&self) -> bool {
        self.ends == Ends::Start && self.held.is_empty() && !self.too_long
    }

    fn cut(&mut self, data: &[u8], out: &mut impl Out) {
        let mut rest = data;
        loop {
            if self.ends.finish_line_end(&mut rest) && !self.dropped {
                out.put(b"\n");
            }
            let (passed, later) = rest.split_at(self.glance(rest));
            out.put(passed);
            rest = later;
            let Some(end) = self.ends.next(rest) else { break };
            let (event, later) = rest.split_at(end);
            self.end_event(event, out);
            rest = later;
        }
        self.release_if_too_long(rest.len(), out);
        if self.too_long {
            out.put(rest);
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    /// Releases the held beginning if the event becomes too long with `more` bytes.
    fn release_if_too_long(&mut self, more: usize, out: &mut impl Out) {
        if !self.too_long && self.held.len() + more > MAX_EVENT {
            self.too_long = true;
            self.unread += 1;
            out.put(&std::mem::take(&mut self.held));
        }
    }

    fn end_event(&mut self, end: &[u8], out: &mut impl Out) {
        self.release_if_too_long(end.len(), out);
        if std::mem::take(&mut self.too_long) {
            self.dropped = false;
            out.put(end);
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        let event = if held.is_empty() {
            end
        } else {
            held.extend_from_slice(end);
            &held
        };
        let verdict = self.reader.event(event);
        self.dropped = match &verdict {
            Verdict::Pass => false,
            Verdict::Drop => true,
            Verdict::Replace(new) => !new.ends_with(b"\r"),
        };
        match verdict {
            Verdict::Pass => out.put(event),
            Verdict::Drop => {}
            Verdict::Replace(new) => out.put(&new),
        }
    }
}

/// Where the bytes go that pass.
trait Out {
    fn put(&mut self, bytes: &[u8]);
}

impl Out for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The bytes have passed already.
struct Passed;

impl Out for Passed {
    fn put(&mut self, _bytes: &[u8]) {}
}

/// Finds the ends of events in a stream that arrives in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ends {
    /// At the beginning of a line.
    #[default]
    Start,
    /// In a line that has at least one byte.
    InLine,
    /// After a CR that ended a line. An LF that follows is part of the same line end.
    Cr,
    /// After a CR that ended an event. An LF that follows is part of the same line end.
    EventCr,
}

impl Ends {
    /// The offset in `data` at which the next event ends. An LF that is part of its last line end is
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

    /// Skips the LF of a CRLF whose CR has ended an event. Returns whether there was one.
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

        /// Knows the event `a`.
        fn glance(&mut self, data: &[u8]) -> usize {
            let event = b"a\n\n";
            let mut rest = data;
            while let Some(later) = rest.strip_prefix(event) {
                assert_eq!(self.event(event), Verdict::Pass);
                rest = later;
            }
            data.len() - rest.len()
        }
    }

    /// What passes, and the events that were seen, of a stream in pieces.
    fn pass(pieces: &[&[u8]]) -> (String, Vec<String>) {
        let editor = Editor::default();
        let mut stage = Stage::editing(editor.clone());
        let bytes = |piece: &&[u8]| Bytes::copy_from_slice(piece);
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| stage.pass(bytes(piece))).collect();
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
            let first = "a: 1|b".replace('|', end);
            assert_eq!(events, [first.as_str(), " d", " r", " a"], "the last one has no end");
        }
    }

    #[test]
    fn where_the_reader_only_looks_every_piece_passes_at_once_and_without_a_copy() {
        let editor = Editor::default();
        let mut stage = Stage::watching(editor.clone());
        for piece in ["a", ": 1\n\nd", "\n\nb\n\nr\n\n", "c"] {
            let piece = Bytes::from(piece);
            let passed = stage.pass(piece.clone());
            assert_eq!((passed.as_ptr(), passed.len()), (piece.as_ptr(), piece.len()));
        }
        assert_eq!(stage.finish(), "");
        assert_eq!(editor.0.lock().unwrap().as_slice(), ["a: 1", "d", "b", "r", "c"]);
    }

    #[test]
    fn an_event_that_is_too_long_passes_unread_and_is_counted() {
        let editor = Editor::default();
        let mut stage = Stage::editing(editor.clone());
        let text = format!("{}\n\nd\n\n", "d".repeat(MAX_EVENT + 1));
        let out: Vec<u8> = text
            .as_bytes()
            .chunks(999)
            .flat_map(|piece| stage.pass(Bytes::copy_from_slice(piece)))
            .collect();
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
