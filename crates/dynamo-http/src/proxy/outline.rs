//! Finds the member `usage` of a JSON object that arrives in pieces.
//!
//! The outline of the text is walked: its strings, and how deep its values are nested. Nothing is kept
//! but the name and the value that are being read, up to a limit. The text is not checked, since it is
//! only forwarded.

use memchr::memchr2;

use super::usage;
use crate::meter::Usage;

#[cfg(test)]
mod tests;

/// The longest raw value of `usage` that is read, in bytes.
const MAX_USAGE: usize = 4096;
/// The longest raw name that is read, in bytes: `usage` with each byte escaped.
const MAX_NAME: usize = "usage".len() * "\\u0061".len();

/// Reads the body of a plain answer while it passes.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    /// How many values are open around the next byte.
    depth: u32,
    text: Text,
    taking: Taking,
    /// The bytes of earlier pieces that belong to what is being taken.
    taken: Vec<u8>,
    usage: Usage,
}

/// Where the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    String,
    /// Behind a backslash in a string.
    Escape,
    /// Behind the object, or in a text that is none.
    Done,
}

/// What is being taken of the outermost object.
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
                Text::Outside if self.depth > 1 => at += self.skip_nested(&data[at..]),
                Text::Outside => {
                    self.outermost(data, at, &mut from);
                    at += 1;
                }
                Text::String => {
                    at += self.skip_string(&data[at..]);
                    if self.text == Text::Outside && self.taking == Taking::Name {
                        let usage = is_usage(self.whole(&data[from..at - 1], MAX_NAME));
                        self.taken.clear();
                        self.taking = Taking::Named { usage };
                    }
                }
                Text::Escape => {
                    self.text = Text::String;
                    at += 1;
                }
                Text::Done => return,
            }
        }
        match self.taking {
            Taking::Name => self.take(&data[from..], MAX_NAME),
            Taking::Usage => self.take(&data[from..], MAX_USAGE),
            Taking::Nothing | Taking::Named { .. } | Taking::Other => {}
        }
    }

    /// The usage that was found. Of several it is the last, as for a parser.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
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
            b'{' => self.depth += 1,
            b'[' if self.depth == 0 => self.text = Text::Done,
            b'[' => self.depth += 1,
            b':' => {
                if let Taking::Named { usage } = self.taking {
                    self.taking = if usage { Taking::Usage } else { Taking::Other };
                    *from = at + 1;
                }
            }
            b',' => self.end_member(&data[*from..at]),
            b'}' | b']' => {
                self.end_member(&data[*from..at]);
                self.text = Text::Done;
            }
            _ => {}
        }
    }

    /// Ends a member, whose value ends with these bytes if it is being taken.
    fn end_member(&mut self, rest: &[u8]) {
        if self.taking == Taking::Usage {
            let raw = self.whole(rest, MAX_USAGE);
            let text = simdutf8::basic::from_utf8(raw).unwrap_or_default();
            self.usage = usage::parse(text);
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

/// The length of a run of bytes that neither begin nor end a value: the numbers of an embedding. It
/// is 0 where the run is short.
fn numbers(data: &[u8]) -> usize {
    // The loop over a block has no early exit, so the compiler vectorizes it.
    let is_run = |block: &&[u8; 32]| {
        let special = |byte: &u8| *byte == b'"' || matches!(*byte | 0x20, b'{' | b'}');
        !block.iter().fold(false, |any, byte| any | special(byte))
    };
    data.as_chunks::<32>().0.iter().take_while(is_run).count() * 32
}

/// Whether the raw content of a name is `usage`.
fn is_usage(raw: &[u8]) -> bool {
    raw == b"usage"
        || (raw.contains(&b'\\') && {
            let quoted = [b"\"", raw, b"\""].concat();
            serde_json::from_slice::<String>(&quoted).is_ok_and(|name| name == "usage")
        })
}
