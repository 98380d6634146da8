//! Asks for the usage of a stream in a body that does not ask for it.

use super::edit::Edits;
use super::json;
use super::peek::Places;

/// The edits that set `stream_options.include_usage` to `true`. None where the body has it so, and
/// where its `stream_options` are of a type that the engine refuses anyway.
pub(crate) fn edits(body: &[u8], places: &Places) -> Option<Edits> {
    let mut edits = Edits::default();
    let Some(options) = &places.stream_options else {
        let at = places.first_member;
        edits.replace(at..at, br#""stream_options":{"include_usage":true},"#.as_slice());
        return Some(edits);
    };
    // The body is JSON, which is UTF-8, and places are at the ends of values.
    let raw = str::from_utf8(&body[options.clone()]).unwrap_or_default();
    if raw == "null" {
        edits.replace(options.clone(), br#"{"include_usage":true}"#.as_slice());
        return Some(edits);
    }
    let (mut found, mut is_empty) = (None, true);
    let first_member = json::walk(raw, |name, place| {
        is_empty = false;
        if json::string(name).as_deref() == Some("include_usage") {
            // Of several, engines take the last.
            found = Some(place);
        }
    });
    let first_member = first_member.ok().flatten()?;
    match found {
        Some(place) if &raw[place.clone()] == "true" => return None,
        Some(place) => {
            let at = options.start + place.start..options.start + place.end;
            edits.replace(at, b"true".as_slice());
        }
        None => {
            let new = if is_empty { r#""include_usage":true"# } else { r#""include_usage":true,"# };
            let at = options.start + first_member;
            edits.replace(at..at, new.as_bytes());
        }
    }
    Some(edits)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::proxy::peek::peek;

    /// The body of an attempt that asks; none if the client has asked, or cannot be helped.
    fn asks(body: &str) -> Option<String> {
        let places = peek(body.as_bytes()).unwrap().places;
        let edited = edits(body.as_bytes(), &places)?.apply(&Bytes::from(body.to_owned()));
        Some(String::from_utf8(edited.to_vec()).unwrap())
    }

    #[test]
    fn the_option_is_put_where_the_body_leaves_room_for_it() {
        for (body, expected) in [
            (r#"{"model":"m"}"#, r#"{"stream_options":{"include_usage":true},"model":"m"}"#),
            (
                r#" { "model":"m","stream_options": null}"#,
                r#" { "model":"m","stream_options": {"include_usage":true}}"#,
            ),
            (
                r#"{"stream_options":{ },"model":"m"}"#,
                r#"{"stream_options":{"include_usage":true },"model":"m"}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"continuous_usage_stats":false}}"#,
                r#"{"model":"m","stream_options":{"include_usage":true,"continuous_usage_stats":false}}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"include_usage":false,"a":{"include_usage":true}}}"#,
                r#"{"model":"m","stream_options":{"include_usage":true,"a":{"include_usage":true}}}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"include\u005fusage": null}}"#,
                r#"{"model":"m","stream_options":{"include\u005fusage": true}}"#,
            ),
            (
                r#"{"model":"m","stream\u005foptions":{"é":1},"stream_options":{}}"#,
                r#"{"model":"m","stream\u005foptions":{"é":1},"stream_options":{"include_usage":true}}"#,
            ),
        ] {
            assert_eq!(asks(body).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn a_body_that_asks_or_cannot_be_helped_stays_as_it_is() {
        for options in [
            r#"{"include_usage":true}"#,
            r#"{"include_usage":false,"include\u005fusage": true }"#,
            "true",
            "[]",
            r#""include_usage""#,
        ] {
            let body = format!(r#"{{"model":"m","stream_options":{options}}}"#);
            assert_eq!(asks(&body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn nothing_else_changes_for_a_parser(
            others in proptest::collection::btree_map("[a-z\"\\\\é]{0,4}", any::<i32>(), 0..4),
            options in proptest::option::of(proptest::collection::btree_map(
                prop_oneof![Just("include_usage".to_owned()), "[a-z{}\"]{0,4}"],
                any::<Option<bool>>(), 0..4)),
            pretty in any::<bool>(),
        ) {
            let mut body = json!({ "model": "m" });
            for (name, value) in &others {
                body[format!("x{name}")] = json!(value);
            }
            if let Some(options) = &options {
                body["stream_options"] = json!(options);
            }
            let text = if pretty { format!("{body:#}") } else { body.to_string() };
            let asked = options.is_some_and(|options| options.get("include_usage") == Some(&Some(true)));
            let edited = asks(&text);
            prop_assert_eq!(edited.is_none(), asked);
            if let Some(edited) = edited {
                body["stream_options"]["include_usage"] = json!(true);
                prop_assert_eq!(serde_json::from_str::<Value>(&edited).unwrap(), body);
            }
        }
    }
}
