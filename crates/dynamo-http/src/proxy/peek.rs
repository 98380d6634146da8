//! Reads a few members of a request's body, in one pass without building a document.

use std::borrow::Cow;
use std::ops::Range;

use dynamo_discovery::{ModelEntry, check_model_name};
use http::StatusCode;

use super::json;
use super::member::Member;
use crate::error::ApiError;

#[cfg(test)]
mod tests;

/// The longest raw string that is read, in bytes: a name of the greatest length with each byte
/// escaped.
const MAX_STRING: usize = ModelEntry::MAX_NAME_LEN * "\\u0061".len() + "\"\"".len();

/// The members of a request's body that the proxy reads.
#[derive(Debug, PartialEq)]
pub(crate) struct Peeked<'a> {
    pub(crate) model: Cow<'a, str>,
    /// Whether the member `stream` is `true`.
    pub(crate) stream: bool,
    /// What names the session of the request, as raw JSON of at most [`MAX_STRING`] bytes: the first
    /// of `prompt_cache_key`, `conversation` and `previous_response_id`. Never `user`, which some
    /// services send with all of their requests.
    pub(crate) session: Option<&'a str>,
    pub(crate) prompt: Prompt<'a>,
    pub(crate) places: Places,
}

/// The members of a body from which an engine makes its prompt, as raw JSON, in the order in which
/// templates put them. An absent one is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Prompt<'a> {
    pub(crate) tools: &'a str,
    pub(crate) system: &'a str,
    pub(crate) instructions: &'a str,
    /// The first of `messages`, `prompt` and `input`.
    pub(crate) input: &'a str,
    /// A client's own salt: prompts of different salts share no cache.
    pub(crate) cache_salt: &'a str,
}

/// The places in a body that [edits](super::edit::Edits) change, in bytes from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// The raw value of `model`, with its quotes.
    pub(crate) model: Range<usize>,
    /// The raw value of `stream_options`, if the body has that member. Of several it is the last,
    /// which is the one that engines take.
    pub(crate) stream_options: Option<Range<usize>>,
    /// The raw value of `cache_salt`, if the body has that member.
    pub(crate) cache_salt: Option<Range<usize>>,
    /// Whether the body has several of them, of which the last is the place above.
    pub(crate) repeats_salt: bool,
    /// The member `priority`, if the body has it.
    pub(crate) priority: Option<Member>,
    /// Whether the body has several of them, of which the last is the one above.
    pub(crate) repeats_priority: bool,
    /// Just behind the opening brace. The body has a model, so a comma must follow each member that
    /// is inserted here.
    pub(crate) first_member: usize,
}

/// Reads the members of a JSON object that the proxy needs.
///
/// All of the body must be JSON. A second `model` or `stream` is refused, because engines take the
/// last one: a gateway that took the first would choose a worker for one model and have another
/// model answer.
pub(crate) fn peek(body: &[u8]) -> Result<Peeked<'_>, ApiError> {
    peek_and(body, |_, _| {})
}

/// The same, and shows each member that the proxy has no other use for: its name, and its raw value.
pub(crate) fn peek_and<'a>(
    body: &'a [u8],
    mut other: impl FnMut(&str, &'a str),
) -> Result<Peeked<'a>, ApiError> {
    let text = simdutf8::basic::from_utf8(body)
        .map_err(|_| invalid("The request body is not valid UTF-8."))?;

    let (mut model, mut stream, mut stream_options) = (None, None, None);
    let mut prompt = Prompt::default();
    let (mut cache_salt, mut repeats_salt) = (None, false);
    let (mut priority, mut repeats_priority) = (None, false);
    let mut sessions = [None; 3];
    let mut name_session = |rank: usize, place: Range<usize>| {
        let value = &text[place];
        sessions[rank] = (value.len() <= MAX_STRING && value != "null").then_some(value);
    };
    let mut duplicate = None;
    let mut once = |seen: &mut Option<Range<usize>>, field, place| {
        if seen.replace(place).is_some() {
            duplicate = Some(field);
        }
    };
    let first_member = json::walk(text, |name, place| match json::string(name).as_deref() {
        Some("model") => once(&mut model, "model", place),
        Some("stream") => once(&mut stream, "stream", place),
        Some("stream_options") => stream_options = Some(place),
        Some("tools") => prompt.tools = &text[place],
        Some("system") => prompt.system = &text[place],
        Some("instructions") => prompt.instructions = &text[place],
        Some("messages" | "prompt" | "input") if prompt.input.is_empty() => {
            prompt.input = &text[place];
        }
        Some("cache_salt") => {
            prompt.cache_salt = &text[place.clone()];
            repeats_salt |= cache_salt.replace(place).is_some();
        }
        Some("priority") => {
            // A raw name is a part of the text.
            let at = name.as_ptr() as usize - text.as_ptr() as usize;
            repeats_priority |= priority.replace(Member { name: at, value: place }).is_some();
        }
        Some("prompt_cache_key") => name_session(0, place),
        Some("conversation") => name_session(1, place),
        Some("previous_response_id") => name_session(2, place),
        Some(name) => other(name, &text[place]),
        None => {}
    })
    .map_err(|json::Invalid { at }| invalid(not_json(&body[..at])))?
    .ok_or_else(|| invalid("The request body must be a JSON object."))?;

    if let Some(field) = duplicate {
        return Err(invalid(format!("The field '{field}' appears more than once.")));
    }
    let about_model = |message: &'static str| invalid(message).with_param("model");
    let not_a_name = || about_model("The field 'model' is not a valid model name.");
    let place = model.ok_or_else(|| about_model("The field 'model' is missing."))?;
    let raw = &text[place.clone()];
    if !raw.starts_with('"') {
        return Err(about_model("The field 'model' must be a string."));
    }
    let model = short_string(raw).ok_or_else(not_a_name)?;
    check_model_name(&model).map_err(|_| not_a_name())?;
    Ok(Peeked {
        model,
        stream: stream.is_some_and(|place| &text[place] == "true"),
        session: sessions.into_iter().flatten().next(),
        prompt,
        places: Places {
            model: place,
            stream_options,
            cache_salt,
            repeats_salt,
            priority,
            repeats_priority,
            first_member,
        },
    })
}

fn invalid(message: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

fn short_string(raw: &str) -> Option<Cow<'_, str>> {
    if raw.len() > MAX_STRING { None } else { json::string(raw) }
}

/// The message for a body that is JSON up to here. It repeats no byte of the body.
fn not_json(valid: &[u8]) -> String {
    let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + valid.iter().rev().take_while(|byte| **byte != b'\n').count();
    format!("The request body is not valid JSON (line {line}, column {column}).")
}
