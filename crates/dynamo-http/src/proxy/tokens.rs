//! Reads the tokens of a stream: which of its events carry content, and the usage.
//!
//! No event is parsed but one that has the word `"usage"` in quotes. Text that a model generates cannot
//! have it, since the quotes in JSON strings are escaped. Most events of a stream differ in nothing but
//! the text of their content, and are known by the one before.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};
use memchr::{memchr, memchr2};

use super::outline::USAGE;
use super::rename::EventRename;
use super::stage::{Reader, Verdict};
use super::{json, usage};
use crate::meter::Usage;
use crate::route::Route;

#[cfg(test)]
mod tests;

/// Reads the events of a stream. Where the client did not ask for the usage, it is taken out of the
/// stream: the event that has it, and its `null` in the other events.
#[derive(Debug)]
pub(crate) struct Tokens {
    marks: &'static [Mark],
    /// Whether the event with the usage is there because the proxy asked for it.
    asked: bool,
    usage: Usage,
    /// How many events carried content.
    content: u64,
    /// The bytes of the content's text.
    bytes: u64,
    /// Whether `bytes` is counted in events of which more than a glance is needed.
    weighs: bool,
    /// An event with content that came before.
    known: Option<Known>,
    /// Replaces the model's name.
    rename: Option<EventRename>,
}

/// An event with content. Another event that differs from it in the text of the content only has content
/// as well, ends where its own text and the rest of this one end, and has no usage.
#[derive(Debug, Default)]
struct Known {
    /// What stands between the texts of two such events in a row: the rest of the one behind its text,
    /// and the other up to its text. So a run of them takes one comparison for each.
    between: Vec<u8>,
    /// Where the second event begins in `between`.
    begin: usize,
}

/// Events in a row that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    events: u64,
    /// The bytes of the events.
    length: usize,
    /// The bytes of their texts.
    text: usize,
}

impl Known {
    /// The longest event that is kept, and the longest text that is glanced over, in bytes. Each stream
    /// may keep an event for as long as it is open.
    const MOST: usize = 512;

    /// Keeps a whole event whose text begins at this offset.
    fn keep(known: &mut Option<Self>, event: &[u8], text: usize) {
        if event.len() > Self::MOST || !event.ends_with(b"\n\n") {
            return;
        }
        let Some(length) = text_length(&event[text..]) else { return };
        let known = known.get_or_insert_default();
        let (before, behind) = (&event[..text], &event[text + length..]);
        known.between.clear();
        known.between.extend_from_slice(behind);
        known.between.extend_from_slice(before);
        known.begin = behind.len();
    }

    /// The events at the beginning of `data` that differ from this one in their texts only, and whose
    /// texts are not empty.
    fn run(&self, data: &[u8]) -> Run {
        let (behind, before) = self.between.split_at(self.begin);
        let mut run = Run::default();
        let mut next = data.strip_prefix(before);
        while let Some(rest) = next {
            let near = &rest[..rest.len().min(Self::MOST)];
            let Some(text @ 1..) = text_length(near) else { break };
            let rest = &rest[text..];
            next = rest.strip_prefix(&*self.between);
            if next.is_none() && !rest.starts_with(behind) {
                break;
            }
            run.events += 1;
            run.text += text;
            run.length = data.len() - rest.len() + behind.len();
        }
        run
    }
}

/// The length of the text of a JSON string, up to its closing quote. `None` where the quote is missing,
/// and where a control character stands in the text, which could end a line.
#[inline(always)]
fn text_length(text: &[u8]) -> Option<usize> {
    // Most tokens are shorter than a word.
    let end = text.first_chunk().map_or(0, |word| json::plain_in_word(*word));
    if text.get(end) == Some(&b'"') { Some(end) } else { long_text_length(text) }
}

/// The same, for a text that no word holds, or that has an escape.
fn long_text_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += json::plain(&text[at..]);
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' if *text.get(at + 1)? >= b' ' => at += 2,
            _ => return None,
        }
    }
}

/// A part of an event by which its content is known.
#[derive(Debug)]
struct Mark {
    /// Finds the text of the mark.
    text: Finder<'static>,
    /// Whether a value follows, which must have content itself.
    has_value: bool,
}

impl Mark {
    fn valued(text: &'static str) -> Self {
        Self { text: Finder::new(text), has_value: true }
    }

    fn plain(text: &'static str) -> Self {
        Self { text: Finder::new(text), has_value: false }
    }

    /// Finds the mark in an event, with content. Returns the place behind its text.
    fn find(&self, event: &[u8]) -> Option<usize> {
        let mut ends = self.text.find_iter(event).map(|at| at + self.text.needle().len());
        ends.find(|end| !self.has_value || has_content(&event[*end..]))
    }
}

/// The marks of content on a route.
fn marks(route: Route) -> &'static [Mark] {
    static CHAT: LazyLock<[Mark; 7]> = LazyLock::new(|| {
        [
            "\"content\":",
            "\"reasoning_content\":",
            "\"reasoning\":",
            "\"tool_calls\":",
            "\"function_call\":",
            "\"refusal\":",
            "\"audio\":",
        ]
        .map(Mark::valued)
    });
    static COMPLETIONS: LazyLock<[Mark; 1]> = LazyLock::new(|| [Mark::valued("\"text\":")]);
    static MESSAGES: LazyLock<[Mark; 2]> =
        LazyLock::new(|| ["\"content_block_delta\"", "\"tool_use\""].map(Mark::plain));
    // The type of the event, such as `response.output_text.delta`.
    static OTHER: LazyLock<[Mark; 1]> = LazyLock::new(|| [Mark::plain(".delta\"")]);

    match route {
        Route::ChatCompletions => &*CHAT,
        Route::Completions => &*COMPLETIONS,
        Route::Messages => &*MESSAGES,
        _ => &*OTHER,
    }
}

/// Whether a JSON value begins here that is a string, an array or an object, and not an empty one.
fn has_content(json: &[u8]) -> bool {
    let mut bytes = json.iter().skip_while(|byte| **byte == b' ');
    let end = match bytes.next() {
        Some(b'"') => return bytes.next().is_some_and(|byte| *byte != b'"'),
        Some(b'[') => b']',
        Some(b'{') => b'}',
        _ => return false,
    };
    bytes.find(|byte| **byte != b' ').is_some_and(|byte| *byte != end)
}

impl Tokens {
    /// A reader of the streams of a route. `asked` says that the proxy has asked for the usage, and
    /// the client has not.
    pub(crate) fn new(route: Route, asked: bool) -> Self {
        Self {
            marks: marks(route),
            asked,
            usage: Usage::default(),
            content: 0,
            bytes: 0,
            weighs: false,
            known: None,
            rename: None,
        }
    }

    /// The same reader, which also replaces the model's name.
    pub(crate) fn renaming(self, rename: EventRename) -> Self {
        Self { rename: Some(rename), ..self }
    }

    /// The same reader, which also counts the bytes of the content.
    pub(crate) fn weighing(self) -> Self {
        Self { weighs: true, ..self }
    }

    /// How many bytes of text the content had so far, with its escapes. It is 0 where the reader does
    /// not weigh.
    pub(crate) fn bytes(&self) -> u64 {
        if self.weighs { self.bytes } else { 0 }
    }

    /// How many events carried content so far.
    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    /// The usage that the engine told so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Counts an event that has content. Returns where its text begins, behind a quote, if it has one.
    fn count(&mut self, event: &[u8]) -> Option<usize> {
        // An event without an object, such as the end marker or a comment, carries no content.
        memchr(b'{', event)?;
        let (value, mark) = self.marks.iter().find_map(|mark| Some((mark.find(event)?, mark)))?;
        self.content += 1;
        let blanks = event[value..].iter().take_while(|byte| **byte == b' ').count();
        let text = value + blanks + "\"".len();
        let text = (mark.has_value && event[text - 1] == b'"').then_some(text);
        if self.weighs {
            self.bytes += match text {
                Some(text) => text_length(&event[text..]).unwrap_or(0) as u64,
                None => nested_text(event),
            };
        }
        text
    }
}

impl Tokens {
    /// Reads an event, and decides what of its usage passes.
    fn read(&mut self, event: &[u8]) -> Verdict {
        // The stage glances at no event whose beginning came in an earlier piece.
        if self.glance(event) == event.len() {
            return Verdict::Pass;
        }
        let text = self.count(event);
        let Some(at) = USAGE.find(event) else {
            if let Some(text) = text {
                Known::keep(&mut self.known, event, text);
            }
            return Verdict::Pass;
        };
        // `"usage":null` is common, and tells nothing.
        if is_null(&event[at + USAGE.needle().len()..]) {
            return if self.asked { without_null(event) } else { Verdict::Pass };
        }
        let data = data(event);
        let Ok(data) = simdutf8::basic::from_utf8(&data) else { return Verdict::Pass };
        let told = usage::of_event(data);
        self.usage.update(told.usage);
        let is_extra = told.has_usage && told.choices.is_some_and(is_empty_array);
        if self.asked && is_extra { Verdict::Drop } else { Verdict::Pass }
    }
}

impl Reader for Tokens {
    fn event(&mut self, event: &[u8]) -> Verdict {
        let verdict = self.read(event);
        let Some(rename) = &self.rename else { return verdict };
        let edited = match &verdict {
            Verdict::Pass => rename.edit(event),
            Verdict::Drop => None,
            Verdict::Replace(new) => rename.edit(new),
        };
        edited.map_or(verdict, Verdict::Replace)
    }

    fn glance(&mut self, data: &[u8]) -> usize {
        // What a glance sees passes as it is.
        let known = self.known.as_ref().filter(|_| self.rename.is_none());
        let run = known.map(|known| known.run(data)).unwrap_or_default();
        self.content += run.events;
        self.bytes += run.text as u64;
        run.length
    }
}

/// The length of the text in an event whose content has other members around it: the longest string
/// of a member that carries text.
fn nested_text(event: &[u8]) -> u64 {
    const NAMES: [&[u8]; 6] = [
        b"\"delta\":\"",
        b"\"text\":\"",
        b"\"arguments\":\"",
        b"\"partial_json\":\"",
        b"\"thinking\":\"",
        b"\"data\":\"",
    ];
    // Some engines write a blank behind the colon.
    const SPACED: [&[u8]; 6] = [
        b"\"delta\": \"",
        b"\"text\": \"",
        b"\"arguments\": \"",
        b"\"partial_json\": \"",
        b"\"thinking\": \"",
        b"\"data\": \"",
    ];
    let length = |name: &[u8]| {
        let at = memmem::find(event, name)? + name.len();
        text_length(&event[at..])
    };
    NAMES.iter().chain(&SPACED).filter_map(|name| length(name)).max().unwrap_or(0) as u64
}

/// Whether a member's value is `null`, and the member is the only one of this name.
fn is_null(behind: &[u8]) -> bool {
    let value = behind.trim_ascii_start().strip_prefix(b":").unwrap_or_default();
    value.trim_ascii_start().starts_with(b"null") && USAGE.find(value).is_none()
}

/// Takes a `usage` of `null` out of an event. By OpenAI's rules each chunk has one where the usage was
/// asked for, and none has one elsewhere.
fn without_null(event: &[u8]) -> Verdict {
    let Cow::Borrowed(data) = data(event) else { return Verdict::Pass };
    let from = data.as_ptr().addr() - event.as_ptr().addr();
    let Ok(text) = simdutf8::basic::from_utf8(data) else { return Verdict::Pass };
    let Some(cut) = usage::null_member(text) else { return Verdict::Pass };
    let (before, behind) = (&event[..from + cut.start], &event[from + cut.end..]);
    Verdict::Replace([before, behind].concat().into())
}

fn is_empty_array(raw: &str) -> bool {
    raw.strip_prefix('[').is_some_and(|rest| rest.trim_ascii_start() == "]")
}

/// The data of an event: the values of its fields `data`, joined by line feeds.
fn data(event: &[u8]) -> Cow<'_, [u8]> {
    let mut data: Option<Cow<'_, [u8]>> = None;
    // A byte order mark may begin a stream.
    let mut rest = event.strip_prefix("\u{feff}".as_bytes()).unwrap_or(event);
    while !rest.is_empty() {
        let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut data {
            None => data = Some(Cow::Borrowed(value)),
            Some(data) => {
                let data = data.to_mut();
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
    data.unwrap_or_default()
}
