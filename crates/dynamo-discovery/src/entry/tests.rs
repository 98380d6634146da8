//! Tests of the entries: what is read, and which rule refuses the rest.

use proptest::prelude::*;

use super::*;
use crate::accepts::RequestField;

fn json(fields: &str) -> String {
    format!(
        r#"{{"name":"m","endpoint":{{"namespace":"a","component":"backend","name":"generate"}},"model_type":"Chat"{fields}}}"#
    )
}

fn parse(value: &str) -> Result<ModelEntry, InvalidEntry> {
    ModelEntry::from_json(value.as_bytes())
}

#[test]
fn every_entry_that_dynamo_0_4_to_0_5_wrote_is_read() {
    // The bytes that each release put, one JSON string a line.
    let recorded = include_str!("../../testdata/dynamo-models.jsonl");
    let mut read = 0;
    for line in recorded.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let entry = parse(record["value"].as_str().unwrap()).unwrap();
        assert_eq!(entry.kinds(), Kind::Chat.into());
        assert_eq!(entry.url(), None);
        assert_eq!(entry.state(), State::Serving);
        read += 1;
    }
    assert_eq!(read, 4);
}

#[test]
fn fields_of_our_own_are_read_and_unknown_ones_ignored() {
    let entry = parse(&json(
        r#","url":"http://h:1/","created":7,"state":"serving","runtime_config":{"context_length":32768,"x":null},"model_input":"Tokens","y":[{}]"#,
    ))
    .unwrap();
    assert_eq!(entry.url().unwrap().as_str(), "http://h:1");
    assert_eq!(entry.created(), Some(7));
    assert_eq!(entry.context_length(), Some(32768));
    for odd in [
        r#"{"context_length":"many"}"#,
        r#"{"context_length":-1}"#,
        r#"{"context_length":1,"context_length":2}"#,
        r#"{"x":1e400}"#,
        "[4096]",
        "4096",
        "null",
    ] {
        let odd = parse(&json(&format!(r#","runtime_config": {odd} "#))).unwrap();
        assert_eq!(odd.context_length(), None);
    }
    assert!(parse(&json(r#","runtime_config":{"x"}"#)).is_err());
}

#[test]
fn a_control_address_is_read_and_an_invalid_one_leaves_the_entry_as_one_without() {
    let entry = parse(&json(r#","control":"http://gpu-7.example:41234/""#)).unwrap();
    assert_eq!(entry.control().unwrap().as_str(), "http://gpu-7.example:41234");
    let without = parse(&json("")).unwrap();
    assert_ne!(entry, without, "another address is a change");
    for (odd, expected) in [
        (r#""http://gpu-7.example:1/path""#, Some(InvalidUrl::Path)),
        (r#""http://169.254.169.254""#, Some(InvalidUrl::ForbiddenAddress)),
        (r#""http:\u002f/u@h""#, Some(InvalidUrl::UserInfo)),
        (r#""""#, Some(InvalidUrl::Malformed)),
        ("41234", Some(InvalidUrl::NotText)),
        (r#"["http://h:1"]"#, Some(InvalidUrl::NotText)),
        ("null", None),
    ] {
        let value = json(&format!(r#","control": {odd} "#));
        let valid = RawEntry::parse(value.as_bytes(), None).unwrap().validate().unwrap();
        assert_eq!((valid.entry, valid.ignored_control), (without.clone(), expected), "{odd}");
    }
    assert!(parse(&json(r#","control":"http://h:1"#)).is_err(), "this is no JSON");
}

#[test]
fn the_fields_that_an_engine_accepts_are_read_and_unknown_ones_ignored() {
    let accepts = |value: &str| {
        parse(&json(&format!(r#","accepts":{value}"#))).unwrap().accepts().to_string()
    };
    assert_eq!(accepts(r#"["priority","include_usage"]"#), "include_usage,priority");
    assert_eq!(accepts(r#"["cache\u005fsalt","telepathy",3,null,["priority"]]"#), "cache_salt");
    for nothing in ["[]", "null", "3", r#""priority""#, r#"{"priority":true}"#] {
        assert_eq!(accepts(nothing), "", "{nothing}");
    }
    assert!(!String::from_utf8_lossy(&parse(&json("")).unwrap().to_json()).contains("accepts"));
}

#[test]
fn a_drained_value_keeps_every_other_field_as_it_lies() {
    for (fields, expected) in [
        ("", r#","state":"draining"}"#),
        (
            r#","big":18446744073709551616,"e":1e400,"x": {"y" :[1, 2]}"#,
            r#","big":18446744073709551616,"e":1e400,"x":{"y" :[1, 2]},"state":"draining"}"#,
        ),
        (
            r#","state":"serving","odd\u0000 \"name":1"#,
            r#","odd\u0000 \"name":1,"state":"draining"}"#,
        ),
        (r#","st\u0061te":"draining""#, r#","state":"draining"}"#),
    ] {
        let value = json(fields);
        let drained = ModelEntry::drained(value.as_bytes()).unwrap();
        let text = std::str::from_utf8(&drained).unwrap();
        assert!(text.ends_with(expected), "{text}");
        let before = parse(&value).unwrap();
        assert_eq!(parse(text), Ok(before.with_state(State::Draining)));
    }
    assert!(ModelEntry::drained(b"[]").is_err());
    assert!(ModelEntry::drained(json(r#","state":"paused""#).as_bytes()).is_err());
}

#[test]
fn each_broken_rule_is_named_without_the_value() {
    let invalid_name = json("").replace("\"m\"", "\"a\\u202eb\"");
    for (value, expected) in [
        (json(r#","state":"paused""#), InvalidEntry::UnknownState),
        (json(r#","url":"http://u@h""#), InvalidEntry::Url(InvalidUrl::UserInfo)),
        (json("").replace("\"Chat\"", "\"Psychic\""), InvalidEntry::NoKnownKind),
        (json("").replace("\"Chat\"", "\"\""), InvalidEntry::NoKnownKind),
        (json("").replace("\"a\"", "\"a/../b\""), InvalidEntry::Endpoint),
        (json("").replace("\"backend\"", "\"\""), InvalidEntry::Endpoint),
        (json("").replace("\"m\"", "\"\""), InvalidEntry::ModelName),
        (json("").replace("\"m\"", &format!("{:?}", "m".repeat(257))), InvalidEntry::ModelName),
        (invalid_name, InvalidEntry::ModelName),
        (" ".repeat(ModelEntry::MAX_VALUE_LEN + 1), InvalidEntry::TooLarge),
    ] {
        assert_eq!(parse(&value), Err(expected), "{value:.200}");
    }
    for value in ["", "{}", "[]", "secret", "{\"name\":\"secret\"}", "\"secret\""] {
        let error = parse(value).unwrap_err();
        assert!(matches!(error, InvalidEntry::Json { .. }), "{value}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    assert!(ModelEntry::from_json(b"\xff\xfe").is_err());
    let endpoint_as_text = r#"{"name":"m","endpoint":"dyn://a.b.c","model_type":"Chat"}"#;
    assert!(parse(endpoint_as_text).is_err());
    let endpoint_as_list = r#"{"name":"m","endpoint":["a","b","c"],"model_type":"Chat"}"#;
    let all_as_list = r#"["m",{"namespace":"a","component":"b","name":"c"},"Chat"]"#;
    for list in [endpoint_as_list, all_as_list] {
        assert!(matches!(parse(list), Err(InvalidEntry::Json { .. })), "{list}");
    }
    assert!(parse(&json("").replace("\"Chat\"", "1")).is_err());
}

#[test]
fn a_prefill_worker_opens_nothing_whatever_it_says() {
    let by_flag = json("").replace("\"Chat\"", "\"Chat | Prefill\"");
    let by_component = json("").replace("backend", "prefill");
    for value in [by_flag, by_component] {
        assert_eq!(parse(&value).unwrap().served_kinds(), Kinds::NONE);
    }
    assert_eq!(parse(&json("")).unwrap().served_kinds(), Kind::Chat.into());
}

proptest! {
    #[test]
    fn an_entry_round_trips_through_its_json(
        name in "[^\\p{C}\\p{Zl}\\p{Zp}]{1,40}",
        namespace in "[A-Za-z0-9_-]{1,20}",
        bits in 1_u32..2048,
        created in any::<Option<u64>>(),
        context_length in any::<Option<u64>>(),
        url in proptest::option::of("http://[a-z]{1,9}:[1-9][0-9]{0,3}"),
        control in proptest::option::of("https?://[a-z]{1,9}:[1-9][0-9]{0,3}"),
        draining in any::<bool>(),
        accepts in proptest::sample::subsequence(RequestField::ALL, 0..=3),
    ) {
        let endpoint = EndpointId::new(namespace.parse().unwrap(), "backend", "generate").unwrap();
        let kinds = Kinds::parse(&format!("0x{bits:x}")).kinds;
        let mut entry = ModelEntry::new(&name, endpoint, kinds).unwrap();
        entry.created = created;
        entry.context_length = context_length;
        entry.url = url.map(|url| url.parse().unwrap());
        entry.control = control.map(|control| control.parse().unwrap());
        entry.accepts = accepts.into_iter().collect();
        entry.state = if draining { State::Draining } else { State::Serving };
        prop_assert_eq!(ModelEntry::from_json(&entry.to_json()).unwrap(), entry);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ModelEntry::from_json(&bytes);
    }
}
