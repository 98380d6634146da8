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
    // Mostly the sum of the others.
    let mut unused = None;
    let rest = object(text, |member, value| {
        let place = match member {
            Member::Details => {
                let (cached, rest) = cached(value)?;
                usage.cached = cached;
                return Some(rest);
            }
            Member::Input => &mut usage.input,
            Member::Output => &mut usage.output,
            Member::Read => &mut read,
            Member::Created => &mut created,
            Member::Cached | Member::Other => &mut unused,
        };
        let (tokens, rest) = tokens(value)?;
        *place = tokens;
        Some(rest)
    })?;
    let apart = read.unwrap_or(0) + created.unwrap_or(0);
    usage.input = usage.input.map(|input| input + apart);
    usage.cached = usage.cached.or(read);
    Some((usage, text.len() - rest.len()))
}

/// What a member of a usage, or of its details, tells.
#[derive(Clone, Copy)]
enum Member {
    Input,
    Output,
    /// Of the input, with `Cached` in it.
    Details,
    Cached,
    Read,
    Created,
    Other,
}

impl Member {
    /// The member whose name in quotes begins the text, and the length of that name.
    fn known(text: &[u8]) -> Option<(Self, usize)> {
        // One `if` for each name: to compare with a constant takes one load or two, and no call.
        macro_rules! table {
            ($($name:literal => $member:ident,)*) => {
                $(if text.starts_with($name) {
                    return Some((Self::$member, $name.len()));
                })*
            };
        }
        table! {
            b"\"prompt_tokens\"" => Input,
            b"\"completion_tokens\"" => Output,
            b"\"total_tokens\"" => Other,
            b"\"input_tokens\"" => Input,
            b"\"output_tokens\"" => Output,
            b"\"prompt_tokens_details\"" => Details,
            b"\"input_tokens_details\"" => Details,
            b"\"cached_tokens\"" => Cached,
            b"\"cache_read_input_tokens\"" => Read,
            b"\"cache_creation_input_tokens\"" => Created,
        }
        None
    }
}

// These read a part of a usage at the beginning of a text, and return the text behind that part. What is
// no JSON need not be noticed, since the text is only forwarded. `None` where the text ends too early.

/// Reads an object. `read` gets each member and the text of its value, and returns the text behind it.
#[inline(always)]
fn object<'a>(
    text: &'a [u8],
    mut read: impl FnMut(Member, &'a [u8]) -> Option<&'a [u8]>,
) -> Option<&'a [u8]> {
    let mut rest = expect(b'{', text)?;
    if let Some(empty) = expect(b'}', rest) {
        return Some(empty);
    }
    loop {
        let (member, behind) = name(skip_blanks(rest))?;
        let value = skip_blanks(expect(b':', behind)?);
        rest = match skip_blanks(read(member, value)?) {
            [b',', rest @ ..] => rest,
            [b'}', rest @ ..] => return Some(rest),
            _ => return None,
        };
    }
}

fn skip_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Skips a byte, and blanks before it.
fn expect(byte: u8, text: &[u8]) -> Option<&[u8]> {
    skip_blanks(text).strip_prefix(&[byte])
}

/// Reads the name of a member.
#[inline(always)]
fn name(text: &[u8]) -> Option<(Member, &[u8])> {
    match Member::known(text) {
        Some((member, length)) => Some((member, &text[length..])),
        None => Some((Member::Other, skip_string(text.strip_prefix(b"\"")?)?)),
    }
}

/// Skips a string to its end, behind its first quote.
fn skip_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match &text[json::plain(text)..] {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] | [_, rest @ ..] => rest,
            [] => return None,
        };
    }
}

/// Skips a value that stands in an object.
fn skip_value(mut text: &[u8]) -> Option<&[u8]> {
    let mut depth = 0_u32;
    loop {
        text = match skip_blanks(text) {
            [b',' | b'}' | b']', ..] if depth == 0 => return Some(text),
            [b'"', rest @ ..] => skip_string(rest)?,
            [byte, rest @ ..] => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                rest
            }
            [] => return None,
        };
    }
}

/// Reads a value that may be a number of tokens.
#[inline(always)]
fn tokens(text: &[u8]) -> Option<(Option<u64>, &[u8])> {
    /// As many digits as the greatest number has that is believed.
    const DIGITS: usize = 10;
    let (mut tokens, mut rest) = (0_u64, text);
    while let [digit @ b'0'..=b'9', behind @ ..] = rest {
        tokens = tokens.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = behind;
    }
    let digits = text.len() - rest.len();
    rest = skip_blanks(rest);
    if digits > 0 && matches!(rest.first()?, b',' | b'}') {
        return Some((Some(tokens).filter(|tokens| digits <= DIGITS && *tokens <= MOST), rest));
    }
    Some((None, skip_value(rest)?))
}

/// Reads a value that may be an object with `cached_tokens`.
fn cached(text: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let mut cached = None;
    if text.first()? != &b'{' {
        return Some((cached, skip_value(text)?));
    }
    let rest = object(text, |member, value| {
        if !matches!(member, Member::Cached) {
            return skip_value(value);
        }
        let (tokens, rest) = tokens(value)?;
        cached = tokens;
        Some(rest)
    })?;
    Some((cached, rest))
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
