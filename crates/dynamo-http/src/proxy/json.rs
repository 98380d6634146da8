//! Walks through JSON text: checks all of it and builds no document.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr2};

#[cfg(test)]
mod tests;

/// How deep values may be nested. Engines parse recursively, so deep nesting could break them.
const MAX_DEPTH: usize = 128;

/// Text that is no JSON, or is nested too deeply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// The offset of the first wrong byte.
    pub(crate) at: usize,
}

/// Reads the one value of the text. `member` gets each member of an object in the order of the text:
/// the raw name, and the place of the raw value.
///
/// Returns the place just behind the opening brace, if the value is an object. Places are in bytes
/// from the beginning of the text.
pub(crate) fn walk<'a>(
    text: &'a str,
    mut member: impl FnMut(&'a str, Range<usize>),
) -> Result<Option<usize>, Invalid> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.blanks();
    let members = (cursor.peek() == Some(b'{')).then_some(cursor.at + "{".len());
    if members.is_some() {
        cursor.object(MAX_DEPTH - 1, &mut member)?;
    } else {
        cursor.value(MAX_DEPTH)?;
    }
    cursor.blanks();
    if cursor.at == text.len() { Ok(members) } else { Err(cursor.invalid()) }
}

/// The content of a raw value that is a string.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    match memchr(b'\\', inner.as_bytes()) {
        None => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(raw).ok().map(Cow::Owned),
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn invalid(&self) -> Invalid {
        Invalid { at: self.at }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, Invalid> {
        let byte = self.peek().ok_or(self.invalid())?;
        self.at += 1;
        Ok(byte)
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), Invalid> {
        if !self.rest().starts_with(text.as_bytes()) {
            return Err(self.invalid());
        }
        self.at += text.len();
        Ok(())
    }

    /// Skips one value, in which values may be nested this deep.
    fn value(&mut self, depth: usize) -> Result<(), Invalid> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{' | b'[') if depth == 0 => Err(self.invalid()),
            Some(b'{') => self.object(depth - 1, &mut |_, _| {}),
            Some(b'[') => self.array(depth - 1),
            Some(b't') => self.expect("true"),
            Some(b'f') => self.expect("false"),
            Some(b'n') => self.expect("null"),
            _ => self.number(),
        }
    }

    fn object(
        &mut self,
        depth: usize,
        member: &mut impl FnMut(&'a str, Range<usize>),
    ) -> Result<(), Invalid> {
        self.expect("{")?;
        self.blanks();
        if self.peek() == Some(b'}') {
            return self.expect("}");
        }
        loop {
            let name = self.at;
            self.string()?;
            let name = &self.text[name..self.at];
            self.blanks();
            self.expect(":")?;
            self.blanks();
            let value = self.at;
            self.value(depth)?;
            member(name, value..self.at);
            self.blanks();
            if self.peek() == Some(b'}') {
                return self.expect("}");
            }
            self.expect(",")?;
            self.blanks();
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Invalid> {
        self.expect("[")?;
        self.blanks();
        if self.peek() == Some(b']') {
            return self.expect("]");
        }
        loop {
            self.value(depth)?;
            self.blanks();
            if self.peek() == Some(b']') {
                return self.expect("]");
            }
            self.expect(",")?;
            self.blanks();
        }
    }

    /// Skips a string.
    fn string(&mut self) -> Result<(), Invalid> {
        self.expect("\"")?;
        loop {
            self.at += plain(self.rest());
            match self.peek() {
                Some(b'"') => return self.expect("\""),
                Some(b'\\') => self.escape()?,
                _ => return Err(self.invalid()),
            }
        }
    }

    /// Skips an escape. Half of a surrogate pair is invalid.
    fn escape(&mut self) -> Result<(), Invalid> {
        self.expect("\\")?;
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => match self.code_unit()? {
                0xd800..0xdc00 => {
                    self.expect("\\u")?;
                    match self.code_unit()? {
                        0xdc00..0xe000 => Ok(()),
                        _ => Err(self.invalid()),
                    }
                }
                0xdc00..0xe000 => Err(self.invalid()),
                _ => Ok(()),
            },
            _ => Err(self.invalid()),
        }
    }

    fn code_unit(&mut self) -> Result<u16, Invalid> {
        const NO_DIGIT: u8 = 0xff;
        let value = |digit| match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => NO_DIGIT,
        };
        let digits = self.rest().first_chunk::<4>().ok_or(self.invalid())?;
        let [a, b, c, d] = digits.map(value);
        if a | b | c | d == NO_DIGIT {
            return Err(self.invalid());
        }
        self.at += digits.len();
        Ok(u16::from_be_bytes([a << 4 | b, c << 4 | d]))
    }

    fn number(&mut self) -> Result<(), Invalid> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Skips one digit or more.
    fn digits(&mut self) -> Result<(), Invalid> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(self.invalid()) } else { Ok(()) }
    }
}

/// The number of bytes before the first quote, backslash or control character.
///
/// Nearly all of a long body is in strings, so this loop decides how fast a body is checked. Runs
/// between escapes are short, so the beginning is checked by words of eight bytes. The rest is checked
/// by a loop that the compiler can vectorize.
pub(super) fn plain(bytes: &[u8]) -> usize {
    const SHORT: usize = 32;
    let mut at = 0;
    while at < SHORT
        && let Some(word) = bytes[at..].first_chunk()
    {
        let end = plain_in_word(*word);
        at += end;
        if end < word.len() {
            return at;
        }
    }
    let rest = &bytes[at..];
    let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    // The loop has no early exit, so the compiler vectorizes it.
    let any_control = rest[..run].iter().fold(false, |any, byte| any | (*byte < b' '));
    let control = || rest.iter().position(|byte| *byte < b' ');
    at + any_control.then(control).flatten().unwrap_or(run)
}

/// The same for a word: 8 where it has no such byte.
#[inline(always)]
pub(super) fn plain_in_word(word: [u8; 8]) -> usize {
    special(u64::from_le_bytes(word)).trailing_zeros() as usize / 8
}

/// Marks the bytes of a word that end a run by their highest bit. The lowest set bit belongs to the
/// first of them; higher ones may be wrong.
fn special(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let below = |limit: u8, word: u64| word.wrapping_sub(EACH * u64::from(limit)) & !word;
    let is = |byte: u8| below(1, word ^ (EACH * u64::from(byte)));
    (below(b' ', word) | is(b'"') | is(b'\\')) & (EACH << 7)
}
