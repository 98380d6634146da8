//! The salt of a caller, and its place in a body.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::proxy::include_usage;
use crate::proxy::peek::peek;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn isolation() -> Isolation {
    Isolation::new(SECRET).unwrap().within(&"team-a".parse().map(NamespaceScope::Only).unwrap())
}

fn salt(key: Option<&str>, body: &str) -> Result<Salt, ApiError> {
    let places = peek(body.as_bytes()).unwrap().places;
    isolation().salt(key.map(Arc::from).as_ref(), body.as_bytes(), &places)
}

fn text(key: Option<&str>, body: &str) -> String {
    String::from_utf8(salt(key, body).unwrap().text().to_vec()).unwrap()
}

fn salted(key: &str, body: &str) -> String {
    let mut edits = Edits::default();
    salt(Some(key), body).unwrap().put_into(&mut edits);
    String::from_utf8(edits.copy(body.as_bytes()).to_vec()).unwrap()
}

/// Computed with `openssl dgst -sha256 -hmac`, as the guide shows it.
#[test]
fn a_salt_is_what_others_compute_from_the_contract() {
    let none = "LfsVPV_LsyQLoUfddzWGn4SNgULn9jNS8mvCXWEO1Lc";
    let own = "tLuwaKKiN4rKjk-wY9_-DKvTJACrXt09KYwaJlVf3jw";
    for key in [Some("team-a"), None] {
        assert_eq!(text(key, r#"{"model":"m"}"#), none, "the scope has the same name");
        assert_eq!(text(key, r#"{"model":"m","cache_salt":"chat-7"}"#), own);
    }
}

#[test]
fn names_and_salts_that_make_the_same_text_together_make_different_salts() {
    let of =
        |key, own: &str| text(Some(key), &json!({"model": "m", "cache_salt": own}).to_string());
    assert_ne!(of("team-a", "b"), of("team-ab", ""));
    assert_ne!(of("team-a", "b"), of("team-a", "c"));
    assert_ne!(of("team-a", ""), of("team-b", ""));
}

#[test]
fn a_salt_is_its_content_however_it_is_written_and_null_is_none() {
    let of = |raw: &str| text(Some("k"), &format!(r#"{{"model":"m","cache_salt": {raw} }}"#));
    assert_eq!(of(r#""a\u0062""#), of(r#""ab""#));
    let absent = text(Some("k"), r#"{"model":"m"}"#);
    assert_eq!((of("null"), of(r#""""#)), (absent.clone(), absent));
}

#[test]
fn several_salts_and_those_that_are_no_string_are_refused() {
    for (members, expected) in [
        (r#""cache_salt":"a","cache_salt":"a""#, "appears more than once"),
        (r#""cache_salt":null,"cache\u005fsalt":"a""#, "appears more than once"),
        (r#""cache_salt":7"#, "must be a string"),
        (r#""cache_salt":["a"]"#, "must be a string"),
        (r#""cache_salt":{"a":"b"}"#, "must be a string"),
    ] {
        let error = salt(Some("k"), &format!(r#"{{{members},"model":"m"}}"#)).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{members}");
        assert!(error.message().contains(expected), "{members}: {}", error.message());
    }
}

#[test]
fn a_secret_is_long_and_is_shown_nowhere() {
    assert_eq!(Isolation::new(&SECRET[..31]).unwrap_err(), ShortSecret);
    let salt = salt(Some("k"), r#"{"model":"m"}"#).unwrap();
    assert_eq!(
        format!("{:?} {:?} {salt:?}", isolation(), isolation().best_effort()),
        "Isolation(cache salt) Isolation(best effort) Salt"
    );
}

#[test]
fn only_the_salt_changes_in_a_body() {
    let new = text(Some("k"), r#"{"model":"m"}"#);
    assert_eq!(
        salted("k", " { \"model\" : \"m\"}\n"),
        format!(" {{\"cache_salt\":\"{new}\", \"model\" : \"m\"}}\n")
    );
    assert_eq!(
        salted("k", r#"{"model":"m","cache\u005fsalt" : null,"a":{"cache_salt":"x"}}"#),
        format!(r#"{{"model":"m","cache\u005fsalt" : "{new}","a":{{"cache_salt":"x"}}}}"#)
    );
}

proptest! {
    #[test]
    fn the_edits_of_the_name_the_usage_and_the_salt_go_together(
        own in proptest::option::of(any::<Option<String>>()),
        options in proptest::option::of(any::<Option<bool>>()),
        first in any::<bool>(),
    ) {
        let mut others = Vec::new();
        if let Some(own) = &own {
            others.push(format!(r#""cache_salt":{}"#, json!(own)));
        }
        if let Some(asks) = options {
            others.push(format!(r#""stream_options":{{"include_usage":{}}}"#, json!(asks)));
        }
        let at = if first { others.len() } else { 0 };
        others.insert(at, r#""model":"m""#.to_owned());
        let body = format!("{{{}}}", others.join(","));
        let places = peek(body.as_bytes()).unwrap().places;
        let mut edits = include_usage::edits(body.as_bytes(), &places).unwrap_or_default();
        edits.replace(places.model, br#""n""#.as_slice());
        let salt = salt(Some("k"), &body).unwrap();
        salt.put_into(&mut edits);
        let edited: Value = serde_json::from_slice(&edits.copy(body.as_bytes())).unwrap();
        let salt = str::from_utf8(salt.text()).unwrap();
        let expected = json!({
            "model": "n", "cache_salt": salt, "stream_options": {"include_usage": true},
        });
        prop_assert_eq!(edited, expected);
    }
}
