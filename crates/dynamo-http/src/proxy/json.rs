//! Walks through JSON text: checks all of it and builds no document.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// How deep values may be nested. Engines parse recursively, so deep nesting could break them.
const MAX_DEPTH: usize = 128;

/// Text that is no JSON, or is nested too deeply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// The offset of the first wrong byte.
    pub(crate) at: usize,
}

/// Reads the one value of the text. Calls the closure for each member of an object, with the raw name
/// and the raw value.
///
/// Returns whether the value is an object.
pub(crate) fn walk<'a>(
    text: &'a str,
    mut member: impl FnMut(&'a str, &'a str),
) -> Result<bool, Invalid> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.blanks();
    let is_object = cursor.peek() == Some(b'{');
    if is_object {
        cursor.object(MAX_DEPTH - 1, &mut member)?;
    } else {
        cursor.value(MAX_DEPTH)?;
    }
    cursor.blanks();
    if cursor.at == text.len() { Ok(is_object) } else { Err(cursor.invalid()) }
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
        member: &mut impl FnMut(&'a str, &'a str),
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
            member(name, &self.text[value..self.at]);
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
fn plain(bytes: &[u8]) -> usize {
    const SHORT: usize = 32;
    let mut at = 0;
    while at < SHORT
        && let Some(word) = bytes[at..].first_chunk()
    {
        let special = special(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += word.len();
    }
    let rest = &bytes[at..];
    let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    // The loop has no early exit, so the compiler vectorizes it.
    let any_control = rest[..run].iter().fold(false, |any, byte| any | (*byte < b' '));
    let control = || rest.iter().position(|byte| *byte < b' ');
    at + any_control.then(control).flatten().unwrap_or(run)
}

/// Marks the bytes of a word that end a run by their highest bit. The lowest set bit belongs to the
/// first of them; higher ones may be wrong.
fn special(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let below = |limit: u8, word: u64| word.wrapping_sub(EACH * u64::from(limit)) & !word;
    let is = |byte: u8| below(1, word ^ (EACH * u64::from(byte)));
    (below(b' ', word) | is(b'"') | is(b'\\')) & (EACH << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn is_json(text: &str) -> bool {
        walk(text, |_, _| {}).is_ok()
    }

    #[test]
    fn the_members_of_the_outermost_object_are_handed_over_raw() {
        let mut members = Vec::new();
        let walked = walk(r#" {"a" : [1, {"b": 2}] ,"\u0063":"x\n", "d":{}} "#, |name, value| {
            members.push((name, value));
        });
        assert_eq!(walked, Ok(true));
        let expected =
            [(r#""a""#, r#"[1, {"b": 2}]"#), (r#""\u0063""#, r#""x\n""#), (r#""d""#, "{}")];
        assert_eq!(members, expected);
        assert_eq!(walk("[1]", |_, _| {}), Ok(false));
    }

    #[test]
    fn where_it_is_no_json_is_told() {
        for (text, at) in [("", 0), ("[1,]", 3), ("{\"a\":\"b\nc\"}", 7), ("[] x", 3), ("-", 1)] {
            assert_eq!(walk(text, |_, _| {}), Err(Invalid { at }), "{text}");
        }
    }

    #[test]
    fn escapes_and_numbers_are_checked_wherever_they_stand() {
        for text in [
            r#""\ud83d\ude00""#,
            r#""\"\\\/\b\f\n\r\t\u00e9""#,
            "[0,-0,1.5,1e5,1E+5,1.25e-7,123456789012345678901234567890,1e999]",
        ] {
            assert!(is_json(text), "{text}");
        }
        for text in [
            r#""\ud83d""#,
            r#""\ud83d\u0041""#,
            r#""\ude00""#,
            r#""\u12g4""#,
            r#""\u12"#,
            r#""\x""#,
            r#""\"#,
            r#"""#,
            "01",
            "1.",
            ".5",
            "1e",
            "+1",
            "-",
            "nul",
            "truex",
            "NaN",
            "[1 2]",
            "{\"a\" 1}",
            "{1:2}",
            "{\"a\":1,}",
            "]",
        ] {
            assert!(!is_json(text), "{text}");
        }
    }

    #[test]
    fn a_control_character_is_found_wherever_it_stands_in_a_long_string() {
        let plain = "x~\u{7f}é".repeat(40);
        assert!(is_json(&format!("\"{plain}\"")));
        for (at, _) in plain.char_indices() {
            let mut text = plain.clone();
            text.insert(at, '\u{1f}');
            assert_eq!(walk(&format!("\"{text}\""), |_, _| {}), Err(Invalid { at: at + 1 }));
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_json(&nested(MAX_DEPTH)));
        assert!(!is_json(&nested(MAX_DEPTH + 1)));
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(is_json(&nested(MAX_DEPTH)));
        assert!(!is_json(&nested(MAX_DEPTH + 1)));
    }

    #[test]
    fn no_number_is_too_large_to_be_json() {
        for number in ["-2.5e311", "1e99999", &"9".repeat(400)] {
            assert!(is_json(number), "{number}");
        }
    }

    proptest! {
        /// Text that is nearly JSON: pieces of it in any order.
        #[test]
        fn it_takes_what_a_parser_takes_and_nothing_else(
            pieces in proptest::collection::vec(
                prop_oneof![
                    Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just(" "),
                    Just("\"a\""), Just("\"\\n\""), Just("\"é\\ud83d\\ude00\""), Just("\"\\ud83d\""),
                    Just("\""), Just("\\"), Just("1"), Just("0"), Just("-2.5e3"), Just("e"), Just("."),
                    Just("true"), Just("null"), Just("\n"), Just("{\"k\":"), Just("[1,"), Just("\t"),
                ],
                0..12,
            ),
        ) {
            let text = pieces.concat();
            let parsed = serde_json::from_str::<Value>(&text);
            // JSON bounds no number (RFC 8259, section 6); that parser does, by what an `f64` holds.
            let bounds = |error: &serde_json::Error| error.to_string().starts_with("number out of range");
            prop_assume!(!parsed.as_ref().is_err_and(bounds));
            prop_assert_eq!(is_json(&text), parsed.is_ok(), "{}", text);
        }

        #[test]
        fn strings_are_what_a_parser_says(text in any::<String>()) {
            let raw = Value::from(text.clone()).to_string();
            prop_assert_eq!(string(&raw).unwrap(), text);
            prop_assert!(is_json(&raw));
        }
    }
}
