//! What must be known of a request's body, read in one pass without building a document.

use std::borrow::Cow;

use dynamo_discovery::{ModelEntry, check_model_name};
use http::StatusCode;

use super::json;
use crate::error::ApiError;

#[cfg(test)]
mod tests;

/// The longest raw string that is read: one of a model's length, every byte of it escaped.
const MAX_STRING: usize = ModelEntry::MAX_NAME_LEN * "\\u0061".len() + "\"\"".len();

/// What the body asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Peeked<'a> {
    pub(crate) model: Cow<'a, str>,
    pub(crate) stream: bool,
    /// For whom, if that is told in a string that is not overly long.
    pub(crate) user: Option<Cow<'a, str>>,
    /// What the model is to work on: the first of `messages`, `prompt` and `input`, as raw JSON.
    pub(crate) prompt: Option<&'a str>,
}

/// Reads the members of a JSON object that matter here.
///
/// All of it must be JSON. A duplicate of `model` or `stream` is refused: engines take the last
/// one, so a gateway that takes the first would route one model and have another answer.
pub(crate) fn peek(body: &[u8]) -> Result<Peeked<'_>, ApiError> {
    let text = simdutf8::basic::from_utf8(body)
        .map_err(|_| invalid("The request body is not valid UTF-8."))?;

    let (mut model, mut stream, mut user, mut prompt) = (None, None, None, None);
    let mut duplicate = None;
    let is_object = json::walk(text, |name, value| match json::string(name).as_deref() {
        Some("model") if model.replace(value).is_some() => duplicate = Some("model"),
        Some("stream") if stream.replace(value).is_some() => duplicate = Some("stream"),
        Some("user") => user = Some(value),
        Some("messages" | "prompt" | "input") => prompt = prompt.or(Some(value)),
        _ => {}
    })
    .map_err(|json::Invalid { at }| invalid(not_json(&body[..at])))?;

    if !is_object {
        return Err(invalid("The request body must be a JSON object."));
    }
    if let Some(field) = duplicate {
        return Err(invalid(format!("The field '{field}' appears more than once.")));
    }
    let about_model = |message: &'static str| invalid(message).with_param("model");
    let not_a_name = || about_model("The field 'model' is not a valid model name.");
    let model = match model {
        Some(raw) if raw.starts_with('"') => short_string(raw).ok_or_else(not_a_name)?,
        Some(_) => return Err(about_model("The field 'model' must be a string.")),
        None => return Err(about_model("The field 'model' is missing.")),
    };
    check_model_name(&model).map_err(|_| not_a_name())?;
    Ok(Peeked { model, stream: stream == Some("true"), user: user.and_then(short_string), prompt })
}

fn invalid(message: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

fn short_string(raw: &str) -> Option<Cow<'_, str>> {
    if raw.len() > MAX_STRING { None } else { json::string(raw) }
}

/// Quotes nothing of the body.
fn not_json(valid: &[u8]) -> String {
    let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + valid.iter().rev().take_while(|byte| **byte != b'\n').count();
    format!("The request body is not valid JSON (line {line}, column {column}).")
}
