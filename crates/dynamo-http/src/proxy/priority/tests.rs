//! The class in a body, for engines that accept it and for others.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::proxy::include_usage;
use crate::proxy::peek::peek;

/// The body that an engine gets of a request of this class.
fn sent(class: Priority, body: &str, accepts: bool) -> String {
    let places = peek(body.as_bytes()).unwrap().places;
    let at = places.priority.clone().ok_or(places.first_member);
    let mut edits = Edits::default();
    Ranked { class, at }.put_into(&mut edits, body.as_bytes(), accepts);
    String::from_utf8(edits.copy(body.as_bytes()).to_vec()).unwrap()
}

#[test]
fn the_class_takes_the_place_of_the_clients_own_priority() {
    for (body, expected) in [
        (r#"{"model":"m"}"#, r#"{"priority":10,"model":"m"}"#),
        (r#"{"priority":-99,"model":"m"}"#, r#"{"priority":10,"model":"m"}"#),
        (r#"{"model":"m" , "priority" : -99 }"#, r#"{"model":"m" , "priority" : 10 }"#),
        (r#"{"model":"m","priorit\u0079":[{}]}"#, r#"{"model":"m","priorit\u0079":10}"#),
        (
            r#"{"model":"m","a":{"priority":1}}"#,
            r#"{"priority":10,"model":"m","a":{"priority":1}}"#,
        ),
        (r#"{"model":"m","Priority":1}"#, r#"{"priority":10,"model":"m","Priority":1}"#),
    ] {
        assert_eq!(sent(Priority::Bulk, body, true), expected, "{body}");
    }
    let of = |class| sent(class, r#"{"model":"m","priority":null}"#, true);
    assert_eq!(of(Priority::Interactive), r#"{"model":"m","priority":-10}"#);
    assert_eq!(of(Priority::Default), r#"{"model":"m","priority":0}"#);
}

#[test]
fn an_engine_that_does_not_accept_it_gets_no_priority() {
    for (body, expected) in [
        (r#"{"model":"m"}"#, r#"{"model":"m"}"#),
        (r#"{"priority":-99,"model":"m"}"#, r#"{"model":"m"}"#),
        (r#"{ "priority" : -99 , "model":"m"}"#, r#"{  "model":"m"}"#),
        ("{\"model\":\"m\" ,\n\"priority\":-99 }", r#"{"model":"m"  }"#),
        (r#"{"model":"m","priorit\u0079":{"a":[1,2]},"b":1}"#, r#"{"model":"m","b":1}"#),
        (r#"{"model":"m","a":[{"priority":1}]}"#, r#"{"model":"m","a":[{"priority":1}]}"#),
        (r#"{"model":"a,","priority":1}"#, r#"{"model":"a,"}"#),
    ] {
        assert_eq!(sent(Priority::Bulk, body, false), expected, "{body}");
    }
}

proptest! {
    #[test]
    fn nothing_else_changes_for_a_parser_beside_all_other_edits(
        mut members in proptest::collection::vec(("[a-z\"\\\\é,{}:]{1,4}", any::<Option<i32>>()), 0..4),
        own in proptest::option::of(prop_oneof![
            Just("1"), Just("-3e9"), Just("null"), Just(r#"{"priority":[1,","]}"#), Just(r#"",}""#)]),
        at in 0_usize..6,
        model_at in 0_usize..6,
        escaped in any::<bool>(),
        blank in prop_oneof![Just(""), Just(" "), Just("\n\t")],
        accepts in any::<bool>(),
        asks_usage in any::<bool>(),
    ) {
        members.sort();
        members.dedup_by(|one, other| one.0 == other.0);
        let mut texts: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("{}{blank}:{blank}{}", json!(format!("x{name}")), json!(value)))
            .collect();
        texts.insert(model_at.min(texts.len()), format!(r#""model"{blank}:"m""#));
        if let Some(own) = own {
            let name = if escaped { r#""prior\u0069ty""# } else { r#""priority""# };
            texts.insert(at.min(texts.len()), format!("{name}{blank}:{blank}{own}"));
        }
        let text = format!("{blank}{{{blank}{}{blank}}}", texts.join(&format!("{blank},{blank}")));

        let places = peek(text.as_bytes()).unwrap().places;
        let class = Priority::Interactive;
        let mut edits = Edits::default();
        if asks_usage {
            edits = include_usage::edits(text.as_bytes(), &places).unwrap();
        }
        edits.replace(places.model.clone(), &br#""another""#[..]);
        let at = places.priority.clone().ok_or(places.first_member);
        Ranked { class, at }.put_into(&mut edits, text.as_bytes(), accepts);

        let mut expected: Value = serde_json::from_str(&text).unwrap();
        let object = expected.as_object_mut().unwrap();
        object.insert("model".into(), json!("another"));
        object.remove("priority");
        if accepts {
            object.insert("priority".into(), json!(-10));
        }
        if asks_usage {
            object.insert("stream_options".into(), json!({"include_usage": true}));
        }
        let edited = edits.copy(text.as_bytes());
        prop_assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), expected);
    }
}
