//! What is read of a body, and where it stands.

use std::fmt::Write as _;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::proxy::edit::Edits;

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
    assert_eq!(error(b"{\"model\":\"m\",\"a\":\"\xff\"}"), "The request body is not valid UTF-8.");
}

#[test]
fn a_model_that_no_one_could_register_is_refused() {
    assert_eq!(error(r#"{"stream":true}"#), "The field 'model' is missing.");
    for body in [r#"{"model":null}"#, r#"{"model":3}"#, r#"{"model":["m"]}"#, r#"{"model":true}"#] {
        assert_eq!(error(body), "The field 'model' must be a string.", "{body}");
    }
    for name in ["", "a\nb", "\u{1b}[31m", "\u{202e}x", &"m".repeat(10_000)] {
        let body = json!({ "model": name }).to_string();
        assert_eq!(error(body), "The field 'model' is not a valid model name.");
    }
}

#[test]
fn the_session_and_the_prompt_are_found_in_the_same_pass() {
    let peeked = |body: &'static str| {
        let peeked = peek(body.as_bytes()).unwrap();
        (peeked.session, peeked.prompt)
    };
    let (session, prompt) = peeked(
        r#"{"model":"m","messages":[{"role":"user"}],"user":"all","tools":[1],"system":"s","instructions":"i","cache_salt":"c","conversation":{"id":"x"},"prompt_cache_key":"k"}"#,
    );
    assert_eq!(session, Some(r#""k""#));
    let all = Prompt {
        tools: "[1]",
        system: r#""s""#,
        instructions: r#""i""#,
        input: r#"[{"role":"user"}]"#,
        cache_salt: r#""c""#,
    };
    assert_eq!(prompt, all);
    let (session, prompt) = peeked(
        r#"{"input":["a", "b"],"model":"m","prompt":"c","user":"u","prompt_cache_key":null,"conversation":{"id":"x"}}"#,
    );
    assert_eq!((session, prompt.input), (Some(r#"{"id":"x"}"#), r#"["a", "b"]"#));
    let nested = peeked(r#"{"a":{"prompt_cache_key":"u","prompt":"p"},"model":"m","user":"u"}"#);
    assert_eq!(nested, (None, Prompt::default()));
}

#[test]
fn the_places_are_those_of_the_outermost_members_in_bytes() {
    let place = |body: &'static str| {
        let Places { model, stream_options, first_member, .. } =
            peek(body.as_bytes()).unwrap().places;
        (&body[model], stream_options.map(|at| &body[at]), &body[..first_member])
    };
    assert_eq!(place(r#"{"model":"m"}"#), (r#""m""#, None, "{"));
    assert_eq!(
        place(
            " \n{ \"é\" : {\"model\":\"x\",\"stream_options\":1} , \"mod\\u0065l\":\t\"\\u00e9\" }"
        ),
        (r#""\u00e9""#, None, " \n{")
    );
    assert_eq!(
        place(r#"{"stream_options":{ "include_usage":true },"model":"m"}"#),
        (r#""m""#, Some(r#"{ "include_usage":true }"#), "{")
    );
    assert_eq!(
        place(r#"{"stream_options":{},"model":"m","stream\u005foptions":null}"#).1,
        Some("null"),
        "engines take the last"
    );
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

/// A string as raw JSON, in which each character is escaped whose bit is set.
fn spelled(text: &str, escaped: u32) -> String {
    let mut raw = String::from("\"");
    for (at, character) in text.chars().enumerate() {
        if escaped >> (at % 32) & 1 == 1 {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(raw, "\\u{unit:04x}").unwrap();
            }
        } else {
            let quoted = Value::from(character.to_string()).to_string();
            raw.push_str(&quoted[1..quoted.len() - 1]);
        }
    }
    raw + "\""
}

/// Members that are no model, some of which look like one.
fn other_members() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![
        proptest::sample::select(vec!["Model", "model ", "mödel", "\\model", "a\"model", "user"])
            .prop_map(str::to_owned),
        "[a-z\"\\\\é😀]{0,6}",
    ]
    .prop_filter("it is read", |name| name != "model" && name != "stream");
    let value = prop_oneof![
        any_json().prop_map(|value| value.to_string()),
        any_json().prop_map(|value| format!("{:#}", json!({ "é": value, "model": "x" }))),
        Just(r#"[{"model":"x","stream_options":{}},"\"model\":\"x\""]"#.to_owned()),
    ];
    let member = (name, any::<u32>(), "[ \n\r\t]{0,2}", value);
    let member = member.prop_map(|(name, escaped, blank, value)| {
        format!("{blank}{}{blank}:{blank}{value}{blank}", spelled(&name, escaped))
    });
    proptest::collection::vec(member, 0..4)
}

proptest! {
    #[test]
    fn another_model_in_the_place_of_the_model_changes_no_other_byte(
        (before, after) in (other_members(), other_members()),
        (old, new) in ("[a-z/é😀\"\\\\.-]{1,20}", "[a-z/é😀\"\\\\.-]{1,20}"),
        escaped in any::<[u32; 3]>(),
        blank in "[ \n\r\t]{0,2}",
        options in proptest::option::of(any_json()),
        options_first in any::<bool>(),
    ) {
        const HERE: &str = "\u{1}";
        let options = options.map(|options| options.to_string());
        let options_member = options.as_ref().map(|raw| format!("{blank}\"stream_options\":{raw}"));
        let model = format!("{blank}{}{blank}:{blank}{HERE}{blank}", spelled("model", escaped[0]));
        let mut members = before;
        members.push(model);
        members.extend(after);
        if let Some(member) = options_member {
            members.insert(if options_first { 0 } else { members.len() }, member);
        }
        // No member has a raw control character, so this one stands for the model's value alone.
        let text = format!("{blank}{{{}}}{blank}", members.join(","));
        let with = |model: &str| text.replace(HERE, model);
        let (raw_old, raw_new) = (spelled(&old, escaped[1]), spelled(&new, escaped[2]));
        let body = Bytes::from(with(&raw_old));

        let peeked = peek(&body).unwrap();
        prop_assert_eq!(&*peeked.model, &old);
        let mut edits = Edits::default();
        edits.replace(peeked.places.model, raw_new.clone().into_bytes());
        prop_assert_eq!(edits.apply(&body), with(&raw_new));

        let found = peeked.places.stream_options.map(|at| body[at].to_vec());
        prop_assert_eq!(found, options.map(String::into_bytes));

        let mut edits = Edits::default();
        let at = peeked.places.first_member;
        edits.replace(at..at, "\"inserted\":1,");
        let mut inserted: Value = serde_json::from_slice(&edits.apply(&body)).unwrap();
        prop_assert_eq!(inserted.as_object_mut().unwrap().remove("inserted"), Some(1.into()));
        prop_assert_eq!(inserted, serde_json::from_slice::<Value>(&body).unwrap());
    }

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

proptest! {
    #[test]
    fn another_model_changes_no_other_byte_and_nothing_else_for_a_parser(
        others in proptest::collection::btree_map("[a-z\"\\\\é]{0,6}", proptest::option::of("[a-zé\"\\\\{}:,]{0,20}"), 0..5),
        nested in "[a-zé\"\\\\{}:,]{0,20}",
        model in "[a-zA-Z/é\"\\\\]{1,20}",
        name in "[a-zA-Z/é\"\\\\]{1,20}",
        escaped in any::<bool>(),
        pretty in any::<bool>(),
    ) {
        let mut body = json!({ "messages": [{ "model": nested, "content": "\"model\":\"m\"" }] });
        for (other, value) in &others {
            body[format!("x{other}")] = json!(value);
        }
        body["model"] = json!(model);
        let text = if pretty { format!("{body:#}") } else { body.to_string() };
        // The outermost name alone is followed by this value.
        let (name_of, value) = ("\"model\":", json!(model).to_string());
        let text = if escaped {
            text.replacen(&format!("{name_of}{value}"), &format!("\"m\\u006fdel\":{value}"), 1)
        } else {
            text
        };
        let place = peek(text.as_bytes()).unwrap().places.model;
        let new = crate::proxy::renamed(text.as_bytes(), place.clone(), json!(name).to_string().into());
        prop_assert_eq!(&new[..place.start], &text.as_bytes()[..place.start]);
        prop_assert!(new.ends_with(&text.as_bytes()[place.end..]));
        body["model"] = json!(name);
        prop_assert_eq!(serde_json::from_slice::<Value>(&new).unwrap(), body);
    }
}
