//! What the walk takes for JSON, and where it says that the members of an object stand.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn is_json(text: &str) -> bool {
    walk(text, |_, _| {}).is_ok()
}

#[test]
fn the_members_of_the_outermost_object_are_handed_over_raw() {
    let text = r#" {"a" : [1, {"b": 2}] ,"\u0063":"x\n", "d":{}} "#;
    let mut members = Vec::new();
    let walked = walk(text, |name, value| members.push((name, &text[value])));
    assert_eq!(walked, Ok(Some(2)), "just behind the brace");
    let expected = [(r#""a""#, r#"[1, {"b": 2}]"#), (r#""\u0063""#, r#""x\n""#), (r#""d""#, "{}")];
    assert_eq!(members, expected);
    assert_eq!(walk("[1]", |_, _| {}), Ok(None));
}

#[test]
fn where_it_is_no_json_is_told() {
    for (text, at) in [("", 0), ("[1,]", 3), ("{\"a\":\"b\nc\"}", 7), ("[] x", 3), ("-", 1)] {
        assert_eq!(walk(text, |_, _| {}), Err(Invalid { at }), "{text}");
    }
}

#[test]
fn escapes_and_numbers_are_checked_wherever_they_stand() {
    for text in [
        r#""\ud83d\ude00""#,
        r#""\"\\\/\b\f\n\r\t\u00e9""#,
        "[0,-0,1.5,1e5,1E+5,1.25e-7,123456789012345678901234567890,1e999]",
    ] {
        assert!(is_json(text), "{text}");
    }
    for text in [
        r#""\ud83d""#,
        r#""\ud83d\u0041""#,
        r#""\ude00""#,
        r#""\u12g4""#,
        r#""\u12"#,
        r#""\x""#,
        r#""\"#,
        r#"""#,
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "-",
        "nul",
        "truex",
        "NaN",
        "[1 2]",
        "{\"a\" 1}",
        "{1:2}",
        "{\"a\":1,}",
        "]",
    ] {
        assert!(!is_json(text), "{text}");
    }
}

#[test]
fn a_control_character_is_found_wherever_it_stands_in_a_long_string() {
    let plain = "x~\u{7f}é".repeat(40);
    assert!(is_json(&format!("\"{plain}\"")));
    for (at, _) in plain.char_indices() {
        let mut text = plain.clone();
        text.insert(at, '\u{1f}');
        assert_eq!(walk(&format!("\"{text}\""), |_, _| {}), Err(Invalid { at: at + 1 }));
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(is_json(&nested(MAX_DEPTH)));
    assert!(!is_json(&nested(MAX_DEPTH + 1)));
    let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert!(is_json(&nested(MAX_DEPTH)));
    assert!(!is_json(&nested(MAX_DEPTH + 1)));
}

#[test]
fn no_number_is_too_large_to_be_json() {
    for number in ["-2.5e311", "1e99999", &"9".repeat(400)] {
        assert!(is_json(number), "{number}");
    }
}

proptest! {
    /// Text that is nearly JSON: pieces of it in any order.
    #[test]
    fn it_takes_what_a_parser_takes_and_nothing_else(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just(" "),
                Just("\"a\""), Just("\"\\n\""), Just("\"é\\ud83d\\ude00\""), Just("\"\\ud83d\""),
                Just("\""), Just("\\"), Just("1"), Just("0"), Just("-2.5e3"), Just("e"), Just("."),
                Just("true"), Just("null"), Just("\n"), Just("{\"k\":"), Just("[1,"), Just("\t"),
            ],
            0..12,
        ),
    ) {
        let text = pieces.concat();
        let parsed = serde_json::from_str::<Value>(&text);
        // JSON bounds no number (RFC 8259, section 6); that parser does, by what an `f64` holds.
        let bounds = |error: &serde_json::Error| error.to_string().starts_with("number out of range");
        prop_assume!(!parsed.as_ref().is_err_and(bounds));
        prop_assert_eq!(is_json(&text), parsed.is_ok(), "{}", text);
    }

    #[test]
    fn strings_are_what_a_parser_says(text in any::<String>()) {
        let raw = Value::from(text.clone()).to_string();
        prop_assert_eq!(string(&raw).unwrap(), text);
        prop_assert!(is_json(&raw));
    }
}
