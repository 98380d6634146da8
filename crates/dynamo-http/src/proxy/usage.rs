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
                event.usage = parse(raw);
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
            usage = parse(&object[place]);
        }
    });
    usage
}

/// Reads the raw value of a member `usage`. Numbers that are no numbers of tokens are left out.
pub(super) fn parse(raw: &str) -> Usage {
    let mut usage = Usage::default();
    // Anthropic counts the tokens from the cache and those that went into it apart from the others.
    let (mut read, mut created) = (None, None);
    let walked = json::walk(raw, |name, place| {
        let value = &raw[place];
        match json::string(name).as_deref() {
            Some("prompt_tokens" | "input_tokens") => usage.input = tokens(value),
            Some("completion_tokens" | "output_tokens") => usage.output = tokens(value),
            Some("prompt_tokens_details" | "input_tokens_details") => {
                usage.cached = cached(value);
            }
            Some("cache_read_input_tokens") => read = tokens(value),
            Some("cache_creation_input_tokens") => created = tokens(value),
            _ => {}
        }
    });
    if !matches!(walked, Ok(Some(_))) {
        return Usage::default();
    }
    let apart = read.unwrap_or(0) + created.unwrap_or(0);
    usage.input = usage.input.map(|input| input + apart);
    usage.cached = usage.cached.or(read);
    usage
}

/// The `cached_tokens` in a raw object.
fn cached(details: &str) -> Option<u64> {
    let mut cached = None;
    let _ = json::walk(details, |name, place| {
        if json::string(name).as_deref() == Some("cached_tokens") {
            cached = tokens(&details[place]);
        }
    });
    cached
}

fn tokens(raw: &str) -> Option<u64> {
    raw.parse().ok().filter(|tokens| *tokens <= MOST)
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
                r#"{"prompt_tokens":9,"prompt_tokens_details":null,"completion_tokens":3}"#,
                usage(9, None, Some(3)),
            ),
        ] {
            assert_eq!(parse(raw), expected, "{raw}");
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
            assert_eq!(parse(raw), Usage::default(), "{raw}");
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
