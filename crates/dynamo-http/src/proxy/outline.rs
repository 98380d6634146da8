//! Finds the member `usage` of a JSON object that arrives in pieces.
//!
//! The word `"usage"` is searched, and nothing before it is read. From there on the outline of the text
//! is walked to the end of the object around it: strings, and how deep values are nested. If more than
//! blanks follow, the object is part of another value, and the search goes on behind it. Nothing is kept
//! but the name and the value that are being read, up to a limit. The text is not checked, since it is
//! only forwarded. A name that is spelled with escapes is not found; no engine writes one.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr2, memrchr};

use super::usage;
use crate::meter::Usage;

#[cfg(test)]
mod tests;

/// The longest raw value of `usage` that is read, in bytes.
const MAX_USAGE: usize = 4096;
/// The longest raw name that is read, in bytes.
const MAX_NAME: usize = "usage".len();

/// Finds the name `usage` with its quotes.
pub(super) static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// Reads the body of a plain answer while it passes.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    text: Text,
    search: Search,
    /// How many values are open around the next byte: 1 in the object whose member was found.
    depth: u32,
    taking: Taking,
    /// The bytes of earlier pieces that belong to what is being taken.
    taken: Vec<u8>,
    usage: Usage,
}

/// Where the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    /// Nobody knows: the name is being searched.
    #[default]
    Anywhere,
    /// In no string.
    Outside,
    String,
    /// Behind a backslash in a string.
    Escape,
    /// Behind the object, which is the outermost one if only blanks follow.
    Behind,
}

/// What is being taken of the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Taking {
    /// A string would be a name.
    #[default]
    Nothing,
    Name,
    /// A name has ended, which is `usage` or another one.
    Named {
        usage: bool,
    },
    /// A value that is not read.
    Other,
    Usage,
}

impl Outline {
    /// Reads the next piece.
    pub(crate) fn pass(&mut self, data: &[u8]) {
        // Where the part of `data` begins that is being taken.
        let mut from = 0;
        let mut at = 0;
        while at < data.len() {
            match self.text {
                Text::Anywhere => {
                    let Some(end) = self.search.next(&data[at..]) else { return };
                    at += end;
                    self.text = Text::Outside;
                    self.depth = 1;
                    self.taking = Taking::Named { usage: true };
                    // Nearly always the piece has all of the value.
                    if let Some((usage, length)) = value_in(&data[at..]) {
                        self.usage = usage;
                        self.taking = Taking::Other;
                        at += length;
                    }
                }
                Text::Outside if self.depth > 1 => at += self.skip_nested(&data[at..]),
                Text::Outside => {
                    self.outermost(data, at, &mut from);
                    at += 1;
                }
                Text::String => {
                    at += self.skip_string(&data[at..]);
                    if self.text == Text::Outside && self.taking == Taking::Name {
                        let usage = self.whole(&data[from..at - 1], MAX_NAME) == b"usage";
                        self.taken.clear();
                        self.taking = Taking::Named { usage };
                    }
                }
                Text::Escape => {
                    self.text = Text::String;
                    at += 1;
                }
                Text::Behind if data[at].is_ascii_whitespace() => at += 1,
                Text::Behind => {
                    self.usage = Usage::default();
                    self.text = Text::Anywhere;
                }
            }
        }
        match self.taking {
            Taking::Name => self.take(&data[from..], MAX_NAME),
            Taking::Usage => self.take(&data[from..], MAX_USAGE),
            Taking::Nothing | Taking::Named { .. } | Taking::Other => {}
        }
    }

    /// The usage that was found, once the body has ended. Of several it is the last, as for a parser.
    pub(crate) fn usage(&self) -> Usage {
        if self.text == Text::Behind { self.usage } else { Usage::default() }
    }

    /// Reads a byte outside of strings that is not inside of a member's value, unless it begins or
    /// ends that value.
    fn outermost(&mut self, data: &[u8], at: usize, from: &mut usize) {
        match data[at] {
            b'"' => {
                self.text = Text::String;
                if self.depth == 1 && self.taking == Taking::Nothing {
                    self.taking = Taking::Name;
                    *from = at + 1;
                }
            }
            b'{' | b'[' => self.depth += 1,
            b':' => {
                if let Taking::Named { usage } = self.taking {
                    self.taking = if usage { Taking::Usage } else { Taking::Other };
                    *from = at + 1;
                }
            }
            b',' => self.end_member(&data[*from..at]),
            b'}' | b']' => {
                self.end_member(&data[*from..at]);
                self.text = Text::Behind;
            }
            _ => {}
        }
    }

    /// Ends a member, whose value ends with these bytes if it is being taken.
    fn end_member(&mut self, rest: &[u8]) {
        if self.taking == Taking::Usage {
            let raw = self.whole(rest, MAX_USAGE);
            self.usage = usage::parse(raw.trim_ascii());
            self.taken.clear();
        }
        self.taking = Taking::Nothing;
    }

    /// All bytes of a name or a value that ends with these. A longer one is cut, which makes it
    /// invalid.
    fn whole<'a>(&'a mut self, rest: &'a [u8], most: usize) -> &'a [u8] {
        if self.taken.is_empty() {
            return &rest[..rest.len().min(most + 1)];
        }
        self.take(rest, most);
        &self.taken
    }

    /// Keeps bytes of a name or a value until its other bytes come.
    fn take(&mut self, bytes: &[u8], most: usize) {
        let room = (most + 1).saturating_sub(self.taken.len());
        self.taken.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Reads to the end of a string, or to a backslash, or to the end of the data. Returns how far.
    fn skip_string(&mut self, data: &[u8]) -> usize {
        /// Most strings are short, and a call of `memchr2` costs as much as some bytes here.
        const SHORT: usize = 12;
        let end = |byte: &u8| *byte == b'"' || *byte == b'\\';
        let near = data[..data.len().min(SHORT)].iter().position(end);
        let found = near.or_else(|| {
            let far = data.get(SHORT..)?;
            memchr2(b'"', b'\\', far).map(|at| SHORT + at)
        });
        let Some(at) = found else { return data.len() };
        self.text = if data[at] == b'"' { Text::Outside } else { Text::Escape };
        at + 1
    }

    /// Reads to the next string, or to the end of the member's value, or to the end of the data.
    /// Returns how far.
    fn skip_nested(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = data.get(at) {
            at += 1;
            match byte {
                b'"' => {
                    self.text = Text::String;
                    break;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 1 {
                        break;
                    }
                }
                b',' => at += numbers(&data[at..]),
                _ => {}
            }
        }
        at
    }
}

/// Reads the value of the member behind its name, if all of it is here. Returns the usage, and the length
/// of the text up to the end of the value.
fn value_in(text: &[u8]) -> Option<(Usage, usize)> {
    let value = text.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let (usage, length) = usage::read(&value[..value.len().min(MAX_USAGE)])?;
    Some((usage, text.len() - value.len() + length))
}

/// The length of a run of bytes that neither begin nor end a value: the numbers of an embedding. It
/// is 0 where the run is short.
pub(super) fn numbers(data: &[u8]) -> usize {
    // The loop over a block has no early exit, so the compiler vectorizes it.
    let is_run = |block: &&[u8; 32]| {
        let special = |byte: &u8| *byte == b'"' || matches!(*byte | 0x20, b'{' | b'}');
        !block.iter().fold(false, |any, byte| any | special(byte))
    };
    data.as_chunks::<32>().0.iter().take_while(is_run).count() * 32
}

/// Searches the name `usage` with its quotes, in a text that arrives in pieces.
#[derive(Debug, Default)]
struct Search {
    /// How many bytes of the name the text so far ends with.
    matched: usize,
    /// Whether the text so far ends with a backslash that escapes the next byte.
    escapes: bool,
}

impl Search {
    /// The offset behind the next string in `data` that is the name, or ends in `data` as the name does.
    fn next(&mut self, data: &[u8]) -> Option<usize> {
        let name = USAGE.needle();
        if self.matched > 0 {
            let missing = &name[self.matched..];
            let here = missing.len().min(data.len());
            if data[..here] == missing[..here] {
                self.matched += here;
                if self.matched < name.len() {
                    return None;
                }
                *self = Self::default();
                return Some(here);
            }
            self.matched = 0;
        }
        let mut from = 0;
        while let Some(found) = USAGE.find(&data[from..]) {
            let at = from + found;
            if !self.is_escaped(&data[..at]) {
                *self = Self::default();
                return Some(at + name.len());
            }
            from = at + 1;
        }
        let last = data.len().saturating_sub(name.len() - 1);
        if let Some(found) = memrchr(b'"', &data[last..]) {
            let (before, end) = data.split_at(last + found);
            if name.starts_with(end) && !self.is_escaped(before) {
                self.matched = end.len();
            }
        }
        self.escapes = self.is_escaped(data);
        None
    }

    /// Whether a byte behind these is escaped.
    fn is_escaped(&self, before: &[u8]) -> bool {
        let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
        (backslashes % 2 == 1) != (backslashes == before.len() && self.escapes)
    }
}
