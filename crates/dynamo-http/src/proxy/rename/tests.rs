//! Which bytes of an answer change, wherever it is cut.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NEW: &str = "\"gpt-4o\"";

/// A plain answer in pieces of these lengths.
fn plain(text: &[u8], cuts: &[usize]) -> String {
    let mut rename = PlainRename::new(Bytes::from_static(NEW.as_bytes()));
    let (mut out, mut rest, mut cuts) = (Vec::new(), text, cuts.iter().cycle());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
        out.extend_from_slice(&rename.pass(Bytes::copy_from_slice(piece)));
        rest = later;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn the_first_model_of_the_object_is_replaced_and_nothing_else() {
    for (text, expected) in [
        (r#"{"model":"m"}"#, r#"{"model":"gpt-4o"}"#),
        (r#" { "model" : "m\"\\" , "a":1}"#, r#" { "model" : "gpt-4o" , "a":1}"#),
        (
            r#"{"a":{"model":"m"},"b":["model"],"c":"\"model\":","model":"m","d":"model"}"#,
            r#"{"a":{"model":"m"},"b":["model"],"c":"\"model\":","model":"gpt-4o","d":"model"}"#,
        ),
        (r#"{"x":-1.5e3,"model":"Qwen/é","y":null}"#, r#"{"x":-1.5e3,"model":"gpt-4o","y":null}"#),
        (r#"{"models":"m","mode":"m","amodel":"m"}"#, r#"{"models":"m","mode":"m","amodel":"m"}"#),
        (r#"{"model\u0000":"m","model":"n"}"#, r#"{"model\u0000":"m","model":"gpt-4o"}"#),
        (r#"{"model":null,"a":"m"}"#, r#"{"model":null,"a":"m"}"#),
        (r#"[{"model":"m"}]"#, r#"[{"model":"m"}]"#),
        (r#""model""#, r#""model""#),
        ("{}", "{}"),
        ("", ""),
    ] {
        for cut in 1..=text.len().max(1) {
            assert_eq!(plain(text.as_bytes(), &[cut]), expected, "pieces of {cut}");
        }
    }
}

#[test]
fn a_piece_without_the_name_is_passed_on_without_a_copy() {
    let mut rename = PlainRename::new(Bytes::from_static(NEW.as_bytes()));
    for piece in ["{\"a\":[1,2", ",3],", "\"model\":\"m\",", "\"b\":\"model\"}"] {
        let piece = Bytes::copy_from_slice(piece.as_bytes());
        let passed = rename.pass(piece.clone());
        assert_eq!(passed.as_ptr() == piece.as_ptr(), !piece.starts_with(b"\"model"));
    }
}

fn event(route: Route, text: &str) -> String {
    let rename = EventRename::new(Bytes::from_static(NEW.as_bytes()), route);
    let edited = rename.edit(text.as_bytes());
    edited.map_or_else(|| text.to_owned(), |edited| String::from_utf8(edited.to_vec()).unwrap())
}

#[test]
fn an_event_has_the_name_where_its_route_has_it() {
    let chat = r#"{"id":"1","model":"m","choices":[{"delta":{"content":"\"model\":\"m\""}}]}"#;
    let named = chat.replacen("\"m\"", NEW, 1);
    let start = r#"{"type":"message_start","message":{"id":"1","model":"m","usage":{}}}"#;
    let created = r#"{"type":"response.created","response":{"model":"m","model_":"m"}}"#;
    for (route, data, expected) in [
        (Route::ChatCompletions, chat, named.as_str()),
        (Route::Completions, chat, &named),
        (Route::Messages, start, &start.replacen("\"m\"", NEW, 1)),
        (Route::Responses, created, &created.replacen("\"m\"", NEW, 1)),
        (Route::ChatCompletions, start, start),
        (Route::Messages, created, created),
        (Route::ChatCompletions, r#"{"model":null}"#, r#"{"model":null}"#),
        (Route::ChatCompletions, "[DONE]", "[DONE]"),
        (Route::ChatCompletions, r#"{"model":"m""#, r#"{"model":"m""#),
    ] {
        for end in ["\n", "\r", "\r\n"] {
            let text =
                |data: &str| format!(": note{end}event: x{end}data: {data}{end}id: 1{end}{end}");
            assert_eq!(event(route, &text(data)), text(expected));
        }
    }
    assert_eq!(
        event(Route::ChatCompletions, "data:{\"model\":\"m\"}"),
        format!("data:{{\"model\":{NEW}}}")
    );
    let lines = "data: {\"a\":1,\ndata: \"model\":\ndata:  \"m\"\ndata: }\n\n";
    assert_eq!(event(Route::ChatCompletions, lines), lines.replace("\"m\"", NEW));
    let begun = "\u{feff}data: {\"model\":\"m\"}\n\n";
    assert_eq!(event(Route::ChatCompletions, begun), begun.replace("\"m\"", NEW));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-zé\"\\\\\n{}\\[\\],:]{0,12}".prop_map(Value::from),
        Just(Value::from("model")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = || prop_oneof![Just("model".to_owned()), "[a-zé\"\\\\]{0,5}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_parser_sees_another_name_and_nothing_else(
        members in proptest::collection::btree_map("[a-zé\"\\\\]{0,6}", any_json(), 0..5),
        has_model in any::<bool>(),
        pretty in any::<bool>(),
        cuts in proptest::collection::vec(1_usize..40, 1..20),
    ) {
        let mut answer = Value::Object(members.into_iter().collect());
        if has_model {
            answer["model"] = json!("Qwen/\"é\"");
        }
        let text = if pretty { format!("{answer:#}") } else { answer.to_string() };
        if answer["model"].is_string() {
            answer["model"] = json!("gpt-4o");
        }
        let edited = plain(text.as_bytes(), &cuts);
        prop_assert_eq!(serde_json::from_str::<Value>(&edited).unwrap(), answer.clone());
        if !pretty {
            let whole = event(Route::ChatCompletions, &format!("data: {text}\n\n"));
            let data = whole.strip_prefix("data: ").unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(data).unwrap(), answer);
        }
    }

    #[test]
    fn bytes_that_are_no_json_lose_nothing_but_what_lies_in_the_old_name(
        bytes in proptest::collection::vec(prop_oneof![select_any(), any::<u8>()], 0..80),
        cuts in proptest::collection::vec(1_usize..9, 1..20),
    ) {
        let whole = plain(&bytes, &[usize::MAX]);
        prop_assert_eq!(&plain(&bytes, &cuts), &whole, "where the answer is cut does not matter");
        let text = String::from_utf8_lossy(&bytes);
        if !text.contains("model") {
            prop_assert_eq!(whole, text);
        }
    }
}

fn select_any() -> impl Strategy<Value = u8> {
    proptest::sample::select(b"{}[]\",:\\model ".to_vec())
}
