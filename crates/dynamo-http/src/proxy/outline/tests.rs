//! Tests of the outline: the usage is that of a parser, wherever the body is cut.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn found(pieces: &[&[u8]]) -> Usage {
    let mut outline = Outline::default();
    pieces.iter().for_each(|piece| outline.pass(piece));
    outline.usage()
}

fn input(tokens: u64) -> Usage {
    Usage { input: Some(tokens), ..Usage::default() }
}

#[test]
fn the_usage_of_the_outermost_object_is_found_wherever_the_body_is_cut() {
    let decoy = r#"{"usage":{"prompt_tokens":1}}"#;
    for (body, expected) in [
        (r#"{"usage":{"prompt_tokens":9}}"#.to_owned(), input(9)),
        ("\u{feff} \n{ \"usage\" :\t{ \"prompt_tokens\" : 9 } , \"a\":[1]}\n".into(), input(9)),
        (
            format!(r#"{{"a":{decoy},"b":[{decoy}],"usage":{{"prompt_tokens":9}},"c":{decoy}}}"#),
            input(9),
        ),
        (r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":9}}"#.into(), input(9)),
        (r#"{"us\u0061ge":{"prompt_tokens":9}}"#.into(), Usage::default()),
        (
            format!(r#"{{"a":{decoy},"b":[1,"usage",{{"c":{decoy}}}],"d":"usage"}}"#),
            Usage::default(),
        ),
        (r#"{"d":"usage","usage":{"prompt_tokens":9},"b":["usage"]}"#.into(), input(9)),
        (r#"{"a\"usage":{"prompt_tokens":1}}"#.into(), Usage::default()),
        (r#"{"a\\":"\\\"usage","usage":{"prompt_tokens":9}}"#.into(), input(9)),
        (
            r#"{"a":"usage","b\"":"\\","usage":{"prompt_tokens":9},"x":{"usage":3}}"#.into(),
            input(9),
        ),
        (r#"{"a":"\",\"usage\":{\"prompt_tokens\":1}"}"#.into(), Usage::default()),
        (r#"{"usage":null,"a":1}"#.into(), Usage::default()),
        (format!("[{decoy}]"), Usage::default()),
        (r#"{"usages":{"prompt_tokens":9},"":{"usage":1}}"#.into(), Usage::default()),
    ] {
        for cut in 0..=body.len() {
            let (one, other) = body.as_bytes().split_at(cut);
            assert_eq!(found(&[one, other]), expected, "{body} at {cut}");
        }
        let single: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        assert_eq!(found(&single), expected, "{body}");
    }
}

#[test]
fn the_memory_is_bounded_whatever_the_body_has() {
    let long = "x".repeat(1 << 20);
    for body in [
        format!(r#"{{"{long}":1,"usage":{{"prompt_tokens":9}}}}"#),
        format!(r#"{{"a":"{long}","usage":{{"prompt_tokens":9}}}}"#),
        format!(r#"{{"usage":{{"prompt_tokens":1,"a":"{long}"}},"usage":{{"prompt_tokens":9}}}}"#),
    ] {
        let mut outline = Outline::default();
        for piece in body.as_bytes().chunks(1000) {
            outline.pass(piece);
            assert!(outline.taken.capacity() <= 4 * MAX_USAGE);
        }
        assert_eq!(outline.usage(), input(9));
    }
    let too_long = format!(r#"{{"usage":{{"prompt_tokens":1,"a":"{long}"}}}}"#);
    assert_eq!(found(&[too_long.as_bytes()]), Usage::default());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\"\\\\usage]{0,9}".prop_map(Value::from),
        Just(json!("usage")),
        Just(json!({"prompt_tokens": 1})),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        let name = prop_oneof![
            any::<String>(),
            Just("usage".to_owned()),
            Just("prompt_tokens".to_owned()),
            prop::sample::select(vec!["\"usage", "usage\"", "\\\"usage", "\\usage"])
                .prop_map(str::to_owned),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_parser_finds_the_same_usage(
        value in any_json(),
        pretty in any::<bool>(),
        cuts in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        let body = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
        let body = body.unwrap();
        let expected = value.get("usage").map(Value::to_string).unwrap_or_default();
        let expected = usage::parse(expected.as_bytes());
        let input = value.get("usage").and_then(|usage| usage.get("prompt_tokens")?.as_u64());
        prop_assert_eq!(expected.input, input.filter(|tokens| *tokens <= 1 << 32));
        let mut outline = Outline::default();
        let mut rest = &body[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, later) = rest.split_at((*cut).min(rest.len()));
            outline.pass(piece);
            rest = later;
        }
        prop_assert_eq!(outline.usage(), expected);
    }

    #[test]
    fn no_bytes_make_the_outline_panic(body in proptest::collection::vec(
        prop_oneof![any::<u8>(), prop::sample::select(br#"{}[]":,\us"#.to_vec())], 0..200)
    ) {
        found(&[&body]);
    }
}
