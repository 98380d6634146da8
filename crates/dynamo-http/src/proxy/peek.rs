//! Reads a few members of a request's body, in one pass without building a document.

use std::borrow::Cow;

use dynamo_discovery::{ModelEntry, check_model_name};
use http::StatusCode;

use super::json;
use crate::error::ApiError;

/// The longest raw string that is read: the longest name of a model with every byte escaped.
const MAX_STRING: usize = ModelEntry::MAX_NAME_LEN * "\\u0061".len() + "\"\"".len();

/// The members of a request's body that the proxy needs.
#[derive(Debug, PartialEq)]
pub(crate) struct Peeked<'a> {
    pub(crate) model: Cow<'a, str>,
    pub(crate) stream: bool,
    /// The member `user`, if it is a string and not longer than a model's name may be.
    pub(crate) user: Option<Cow<'a, str>>,
    /// The first of `messages`, `prompt` and `input`, as raw JSON.
    pub(crate) prompt: Option<&'a str>,
}

/// Reads the members of a JSON object that the proxy needs.
///
/// The whole body must be JSON. A duplicate of `model` or `stream` is refused: engines take the last
/// one, so a proxy that took the first one would route the request to another model's worker.
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

/// The message for a body that is no JSON. It quotes nothing of the body.
fn not_json(valid: &[u8]) -> String {
    let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + valid.iter().rev().take_while(|byte| **byte != b'\n').count();
    format!("The request body is not valid JSON (line {line}, column {column}).")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn ok(body: &str) -> (String, bool) {
        let peeked = peek(body.as_bytes()).unwrap();
        (peeked.model.into_owned(), peeked.stream)
    }

    fn error(body: impl AsRef<[u8]>) -> String {
        let error = peek(body.as_ref()).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        error.message().to_owned()
    }

    #[test]
    fn model_and_stream_are_found_wherever_they_stand() {
        for (body, expected) in [
            (r#"{"model":"m"}"#, ("m", false)),
            (r#" { "stream" : true , "model" : "m" } "#, ("m", true)),
            (r#"{"a":{"model":"x","stream":true},"b":["model"],"model":"m"}"#, ("m", false)),
            (r#"{"model":"m","stream":"yes"}"#, ("m", false)),
            (r#"{"model":"m","stream":null}"#, ("m", false)),
            (r#"{"mod\u0065l":"m","str\u0065am":true}"#, ("m", true)),
            (r#"{"model":"Qwen\/Q\u00e9"}"#, ("Qwen/Qé", false)),
            (r#"{"MODEL":"x","model":"m","n":-1.5e3,"big":18446744073709551615}"#, ("m", false)),
        ] {
            assert_eq!(ok(body), (expected.0.to_owned(), expected.1), "{body}");
        }
    }

    #[test]
    fn a_second_model_or_stream_is_refused_however_it_is_spelled() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","model":"a"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
        ] {
            assert_eq!(error(body), "The field 'model' appears more than once.", "{body}");
        }
        assert_eq!(
            error(r#"{"stream":true,"model":"a","stream":false}"#),
            "The field 'stream' appears more than once."
        );
    }

    #[test]
    fn all_of_the_body_must_be_json() {
        for body in [
            "",
            "{",
            r#"{"model":"m""#,
            r#"{"model":"m"} x"#,
            r#"{"model":"m"}{"model":"m"}"#,
            r#"{"model":"m","a":tru}"#,
            r#"{"model":"m","a":01}"#,
            r#"{"model":"m",}"#,
            "{'model':'m'}",
            "not json",
            r#"{"model":"m","a":"\x"}"#,
            "{\"model\":\"m\",\"a\":\"\n\"}",
        ] {
            assert!(error(body).starts_with("The request body is not valid JSON"), "{body}");
        }
        for body in ["[]", "3", r#""model""#, "null"] {
            assert_eq!(error(body), "The request body must be a JSON object.", "{body}");
        }
        assert_eq!(
            error(b"{\"model\":\"m\",\"a\":\"\xff\"}"),
            "The request body is not valid UTF-8."
        );
    }

    #[test]
    fn a_model_that_no_one_could_register_is_refused() {
        assert_eq!(error(r#"{"stream":true}"#), "The field 'model' is missing.");
        for body in
            [r#"{"model":null}"#, r#"{"model":3}"#, r#"{"model":["m"]}"#, r#"{"model":true}"#]
        {
            assert_eq!(error(body), "The field 'model' must be a string.", "{body}");
        }
        for name in ["", "a\nb", "\u{1b}[31m", "\u{202e}x", &"m".repeat(10_000)] {
            let body = json!({ "model": name }).to_string();
            assert_eq!(error(body), "The field 'model' is not a valid model name.");
        }
    }

    #[test]
    fn the_user_and_the_prompt_are_found_in_the_same_pass() {
        let user_and_prompt = |body: &'static str| {
            let peeked = peek(body.as_bytes()).unwrap();
            (peeked.user.map(Cow::into_owned), peeked.prompt)
        };
        let messages = r#"{"model":"m","messages":[{"role":"user"}],"user":"J\u00fcrgen"}"#;
        assert_eq!(
            user_and_prompt(messages),
            (Some("Jürgen".into()), Some(r#"[{"role":"user"}]"#))
        );
        let both = r#"{"input":["a", "b"],"model":"m","prompt":"c","user":3}"#;
        assert_eq!(user_and_prompt(both), (None, Some(r#"["a", "b"]"#)));
        assert_eq!(user_and_prompt(r#"{"a":{"user":"u","prompt":"p"},"model":"m"}"#), (None, None));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!(r#"{{"model":"m","a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(error(&deep).len() < 200);
        let fair = format!(r#"{{"model":"m","a":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(ok(&fair).0, "m");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\é]{0,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_a_whole_document_would_say(
            fields in proptest::collection::btree_map("[a-z]{0,6}", any_json(), 0..6),
            model in "[a-zA-Z0-9/é\"\\\\.-]{1,20}",
            stream in any::<bool>(),
        ) {
            let mut document: serde_json::Map<String, Value> = fields.into_iter().collect();
            document.insert("model".into(), model.clone().into());
            document.insert("stream".into(), stream.into());
            let body = Value::Object(document).to_string();
            prop_assert_eq!(ok(&body), (model, stream));
        }

        #[test]
        fn no_bytes_make_the_scan_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = peek(&body);
        }
    }
}
