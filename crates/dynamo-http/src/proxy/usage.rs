//! Reads the usage that an engine tells, in the spelling of each route.

use std::ops::Range;

use super::json;
use crate::meter::Usage;

/// The greatest number of tokens that is believed. A greater one is a fault of the engine, and would
/// spoil a counter for ever.
const MOST: u64 = 1 << 32;

/// The places of the members of an event's object that are read.
#[derive(Debug, Default)]
pub(super) struct Event<'a> {
    /// The raw value of `choices`.
    pub(super) choices: Option<&'a str>,
    /// Whether `usage` is an object, beside `choices`.
    pub(super) has_usage: bool,
    pub(super) usage: Usage,
}

/// Reads the data of an event that tells usage: beside `choices`, in the `response` of an event of the
/// route Responses, or in the `message` of an event of the route Messages. Data that is no JSON object
/// tells nothing.
pub(super) fn of_event(data: &str) -> Event<'_> {
    let mut event = Event::default();
    let mut nested = Usage::default();
    let walked = json::walk(data, |name, place| {
        let raw = &data[place];
        match json::string(name).as_deref() {
            Some("usage") => {
                event.has_usage = raw.starts_with('{');
                event.usage = parse(raw.as_bytes());
            }
            Some("choices") => event.choices = Some(raw),
            Some("response" | "message") => nested = member(raw),
            _ => {}
        }
    });
    if walked.is_err() {
        return Event::default();
    }
    // Of both places, the outer one is the later report.
    nested.update(event.usage);
    Event { usage: nested, ..event }
}

/// The bytes to cut out of an object so that it has no member `usage` whose value is `null`: the member,
/// and the comma that parts it from its neighbour. None where the object has no such member.
pub(super) fn null_member(data: &str) -> Option<Range<usize>> {
    let mut found = None;
    json::walk(data, |name, place| {
        if json::string(name).as_deref() == Some("usage") && &data[place.clone()] == "null" {
            let begin = name.as_ptr().addr() - data.as_ptr().addr();
            found = Some(begin..place.end);
        }
    })
    .ok()?;
    let Range { start, end } = found?;
    let before = data[..start].trim_ascii_end();
    if before.ends_with(',') {
        return Some(before.len() - 1..end);
    }
    let behind = data[end..].trim_ascii_start();
    let behind = behind.strip_prefix(',').map_or(behind, str::trim_ascii_start);
    Some(start..data.len() - behind.len())
}

/// The `usage` in a raw object.
fn member(object: &str) -> Usage {
    let mut usage = Usage::default();
    let _ = json::walk(object, |name, place| {
        if json::string(name).as_deref() == Some("usage") {
            usage = parse(object[place].as_bytes());
        }
    });
    usage
}

/// Reads the raw value of a member `usage`. Numbers that are no numbers of tokens are left out.
pub(super) fn parse(raw: &[u8]) -> Usage {
    match read(raw) {
        Some((usage, length)) if length == raw.len() => usage,
        _ => Usage::default(),
    }
}

/// Reads the value of a member `usage` at the beginning of a text. Returns the usage, and the length of
/// the value. `None` where the value is no object, and where its end is missing.
pub(super) fn read(text: &[u8]) -> Option<(Usage, usize)> {
    let mut usage = Usage::default();
    // Anthropic counts the tokens from the cache and those that went into it apart from the others.
    let (mut read, mut created) = (None, None);
    let mut cursor = Cursor { rest: text };
    cursor.object(|name, value| {
        match name {
            b"prompt_tokens" | b"input_tokens" => usage.input = value.tokens()?,
            b"completion_tokens" | b"output_tokens" => usage.output = value.tokens()?,
            b"prompt_tokens_details" | b"input_tokens_details" => usage.cached = value.cached()?,
            b"cache_read_input_tokens" => read = value.tokens()?,
            b"cache_creation_input_tokens" => created = value.tokens()?,
            // Mostly the sum of the others.
            _ => drop(value.tokens()?),
        }
        Some(())
    })?;
    let apart = read.unwrap_or(0) + created.unwrap_or(0);
    usage.input = usage.input.map(|input| input + apart);
    usage.cached = usage.cached.or(read);
    Some((usage, text.len() - cursor.rest.len()))
}

/// Reads the members of a usage. What is no JSON need not be noticed, since the text is only forwarded.
/// `None` where the text ends too early.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// Skips blanks. Returns the byte behind them, which is not skipped.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let (byte, rest) = self.rest.split_first()?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.rest = rest;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.rest = &self.rest[1..])
    }

    /// Reads an object. `member` gets each raw name, and reads or skips the value behind it.
    fn object(&mut self, mut member: impl FnMut(&'a [u8], &mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            self.expect(b'"')?;
            let name = self.string()?;
            self.expect(b':')?;
            self.peek()?;
            member(name, self)?;
            self.peek()?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads a string to its end, behind its first quote. Returns what is between the quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let text = self.rest;
        let mut at = 0;
        loop {
            at += json::plain(&text[at..]);
            match text.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
            text.get(at)?;
        }
        self.rest = &text[at + 1..];
        Some(&text[..at])
    }

    /// Skips a value that stands in an object.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        while depth > 0 || !matches!(self.peek()?, b',' | b'}' | b']') {
            match self.next()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
        Some(())
    }

    /// Reads a value that may be a number of tokens.
    fn tokens(&mut self) -> Option<Option<u64>> {
        /// As many digits as the greatest number has that is believed.
        const DIGITS: usize = 10;
        let (mut tokens, mut digits) = (0_u64, 0);
        while let [digit @ b'0'..=b'9', rest @ ..] = self.rest {
            tokens = tokens.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            digits += 1;
            self.rest = rest;
        }
        if digits > 0 && matches!(self.peek()?, b',' | b'}') {
            return Some(Some(tokens).filter(|tokens| digits <= DIGITS && *tokens <= MOST));
        }
        self.skip()?;
        Some(None)
    }

    /// Reads a value that may be an object with `cached_tokens`.
    fn cached(&mut self) -> Option<Option<u64>> {
        let mut cached = None;
        if self.peek()? != b'{' {
            self.skip()?;
            return Some(cached);
        }
        self.object(|name, value| {
            match name {
                b"cached_tokens" => cached = value.tokens()?,
                _ => value.skip()?,
            }
            Some(())
        })?;
        Some(cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, cached: Option<u64>, output: Option<u64>) -> Usage {
        Usage { input: Some(input), cached, output }
    }

    #[test]
    fn every_spelling_of_a_usage_is_read() {
        for (raw, expected) in [
            (
                r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#,
                usage(9, None, Some(3)),
            ),
            (
                r#"{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}"#,
                usage(9, Some(8), Some(3)),
            ),
            (
                r#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":8},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1}}"#,
                usage(9, Some(8), Some(3)),
            ),
            (
                r#"{"input_tokens":9,"cache_read_input_tokens":8,"cache_creation_input_tokens":2,"output_tokens":3}"#,
                usage(19, Some(8), Some(3)),
            ),
            (r#"{"prompt_tokens":9,"total_tokens":9}"#, usage(9, None, None)),
            (
                r#"{ "a" : [{"prompt_tokens":1},"]"] , "b\"":"}\"", "prompt_tokens" : 9 , "completion_tokens":3 }"#,
                usage(9, None, Some(3)),
            ),
            (
                r#"{"prompt_tokens":9,"prompt_tokens_details":null,"completion_tokens":3}"#,
                usage(9, None, Some(3)),
            ),
        ] {
            assert_eq!(parse(raw.as_bytes()), expected, "{raw}");
        }
    }

    #[test]
    fn a_wrong_usage_tells_nothing() {
        for raw in [
            "null",
            "[]",
            "3",
            r#""prompt_tokens""#,
            r#"{"type":"duration","seconds":9}"#,
            r#"{"prompt_tokens":-1,"completion_tokens":1.5}"#,
            r#"{"prompt_tokens":"9","completion_tokens":99999999999999999999999}"#,
            r#"{"prompt_tokens":18446744073709551615}"#,
            r#"{"prompt_tokens":9"#,
        ] {
            assert_eq!(parse(raw.as_bytes()), Usage::default(), "{raw}");
        }
    }

    #[test]
    fn a_usage_of_null_is_cut_out_with_its_comma() {
        for (data, expected) in [
            (r#"{"id":1,"usage":null}"#, Some(r#"{"id":1}"#)),
            (r#"{"id": 1, "usage": null, "x": 2}"#, Some(r#"{"id": 1, "x": 2}"#)),
            (r#"{"usage": null, "x": 2}"#, Some(r#"{"x": 2}"#)),
            (r#"{ "us\u0061ge":null }"#, Some("{ }")),
            (r#"{"id":1,"usage":{}}"#, None),
            (r#"{"a":{"usage":null}}"#, None),
            (r#"{"id":1,"usage":null"#, None),
        ] {
            let cut = null_member(data).map(|cut| [&data[..cut.start], &data[cut.end..]].concat());
            assert_eq!(cut.as_deref(), expected, "{data}");
        }
    }

    #[test]
    fn the_usage_of_an_event_is_found_where_its_route_has_it() {
        for (data, expected) in [
            (r#"{"choices":[],"usage":{"prompt_tokens":9}}"#, usage(9, None, None)),
            (
                r#"{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":9}}}"#,
                usage(9, None, None),
            ),
            (
                r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":9,"output_tokens":1}}}"#,
                usage(9, None, Some(1)),
            ),
            (
                r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":3}}"#,
                Usage { output: Some(3), ..Usage::default() },
            ),
            (r#"{"choices":[{"delta":{"usage":{"prompt_tokens":9}}}]}"#, Usage::default()),
            (r#"{"usage":{"prompt_tokens":9}"#, Usage::default()),
            ("[DONE]", Usage::default()),
        ] {
            assert_eq!(of_event(data).usage, expected, "{data}");
        }
    }
}
