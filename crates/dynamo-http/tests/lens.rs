//! What a caller sees through a lens: the view of a scope, and of that the models of some names.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

use std::sync::Arc;

use axum::response::IntoResponse as _;
use dynamo_discovery::{Instance, Key, Kind, Kinds, ModelEntry, ModelUpdate};
use dynamo_http::{
    ApiError, Lens, ModelNames, Sight, Switchboard, SwitchboardWriter, update_http_endpoints,
};
use dynamo_namespace::NamespaceScope;
use http::StatusCode;
use proptest::prelude::*;

fn scope() -> NamespaceScope {
    NamespaceScope::Only("a".parse().unwrap())
}

fn instance(model: &str, number: usize, kinds: Kinds) -> Arc<Instance> {
    let endpoint = "a.backend.generate".parse().unwrap();
    let entry = ModelEntry::new(model, endpoint, kinds).unwrap();
    Arc::new(Instance::new(Key::from(format!("models/{number}/{model}")), None, entry))
}

/// A lens on these models, with all names, and the writer that keeps the view open.
fn lens(models: &[(&str, Kinds)]) -> (Lens, SwitchboardWriter) {
    let (switchboard, mut writer) = Switchboard::new([scope()]);
    let added = |(number, (model, kinds)): (usize, &(&str, Kinds))| {
        ModelUpdate::Added(instance(model, number, *kinds))
    };
    let added: Vec<_> = models.iter().enumerate().map(added).collect();
    writer.stage_ready();
    update_http_endpoints(&mut writer, &added);
    (switchboard.live_view(&scope()).into(), writer)
}

fn with_names(lens: &Lens, names: &[&str]) -> Sight {
    lens.clone().with_names(ModelNames::new(names).unwrap()).look()
}

fn names(sight: &Sight) -> Vec<&str> {
    sight.models().map(|model| model.name()).collect()
}

fn code(error: &ApiError) -> Option<&str> {
    error.code()
}

#[test]
fn without_names_a_lens_shows_all_of_its_view() {
    let (lens, _writer) = lens(&[("m", Kind::Chat.into()), ("n", Kind::Embedding.into())]);
    let sight = lens.look();
    assert_eq!(names(&sight), ["m", "n"]);
    assert_eq!(sight.open_kinds(), Kind::Chat | Kind::Embedding);
    assert_eq!((sight.scope(), sight.is_ready()), (&scope(), true));
}

#[test]
fn a_model_of_another_name_is_in_no_list_found_by_no_name_and_opens_no_route() {
    let (lens, _writer) = lens(&[("mine", Kind::Chat.into()), ("theirs", Kind::Embedding.into())]);
    let sight = with_names(&lens, &["mine"]);
    assert_eq!(names(&sight), ["mine"]);
    assert!(sight.model("mine").is_some() && sight.model("theirs").is_none());
    assert_eq!(sight.open_kinds(), Kind::Chat.into());
    assert!(sight.is_open(Kind::Chat) && !sight.is_open(Kind::Embedding));
    assert!(sight.admit(Kind::Chat).is_ok());
    let closed = sight.admit(Kind::Embedding).unwrap_err();
    assert_eq!(code(&closed), Some("endpoint_disabled"));
    // The route is closed as it is where there is no such model at all.
    let nothing = with_names(&lens, &["nobodys"]).admit(Kind::Embedding).unwrap_err();
    assert_eq!(closed, nothing);
    assert_eq!(closed.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    let debug = format!("{sight:?}");
    assert!(debug.contains("mine"), "{debug}");
}

#[test]
fn a_lens_without_any_name_shows_nothing() {
    let (lens, _writer) = lens(&[("m", Kind::Chat.into())]);
    let sight = with_names(&lens, &[]);
    assert_eq!((names(&sight), sight.open_kinds()), (vec![], Kinds::NONE));
}

#[test]
fn before_the_first_list_a_closed_route_may_open_whatever_the_names() {
    let (switchboard, mut writer) = Switchboard::new([scope()]);
    let lens: Lens = switchboard.live_view(&scope()).into();
    update_http_endpoints(&mut writer, &[ModelUpdate::Added(instance("m", 0, Kind::Chat.into()))]);
    assert!(lens.look().admit(Kind::Chat).is_ok());
    let early = with_names(&lens, &["other"]).admit(Kind::Chat).unwrap_err();
    assert_eq!(code(&early), Some("discovery_not_ready"));
}

#[test]
fn a_look_stays_as_it_was_and_the_next_one_sees_what_has_changed() {
    let (lens, mut writer) = lens(&[("m", Kind::Chat.into())]);
    let lens = lens.with_names(ModelNames::new(["m", "new*"]).unwrap());
    let before = lens.look();
    let added = instance("new-model", 9, Kind::Embedding.into());
    update_http_endpoints(&mut writer, &[ModelUpdate::Added(added)]);
    assert_eq!((names(&before), before.is_open(Kind::Embedding)), (vec!["m"], false));
    assert_eq!(names(&lens.look()), ["m", "new-model"]);
}

#[test]
fn names_are_exact_unless_an_asterisk_ends_them() {
    let contains = |patterns: &[&str], name| ModelNames::new(patterns).unwrap().contains(name);
    for (patterns, name, expected) in [
        (&["m"][..], "m", true),
        (&["m"], "M", false),
        (&["m"], "mm", false),
        (&["m", "n"], "n", true),
        (&["m*"], "m", true),
        (&["m*"], "model", true),
        (&["m*"], "am", false),
        (&["*"], "anything", true),
        (&["Qwen/*"], "Qwen/Qwen3-32B", true),
        (&["Qwen/*"], "Qwen", false),
        (&["é*"], "ecole", false),
        (&["é*"], "été", true),
        (&[], "m", false),
    ] {
        assert_eq!(contains(patterns, name), expected, "{patterns:?} {name}");
    }
    for invalid in ["", "*a", "a*b", "**", "a**"] {
        let error = ModelNames::new(["m", invalid]).unwrap_err();
        assert!(!error.to_string().contains("a*b"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_lens_with_names_shows_the_view_of_which_all_other_models_are_taken_out(
        models in proptest::collection::btree_map("[ab]{1,3}", 1_u16..2048, 0..8),
        patterns in proptest::collection::vec("[ab]{1,3}|[ab]{0,2}[*]", 0..4),
    ) {
        let kinds = |bits: u16| -> Kinds {
            Kind::ALL.iter().copied().filter(|kind| bits & *kind as u16 != 0).collect()
        };
        let models: Vec<_> =
            models.iter().map(|(name, bits)| (name.as_str(), kinds(*bits))).collect();
        // Told without the type under test.
        let is_named = |name: &str| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            })
        };
        let named: Vec<_> =
            models.iter().copied().filter(|(name, _)| is_named(name)).collect();

        let (all, _writer) = lens(&models);
        let patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
        let sight = with_names(&all, &patterns);
        // A switchboard that has never heard of the others.
        let (only, _writer) = lens(&named);
        let expected = only.look();

        prop_assert_eq!(names(&sight), names(&expected));
        prop_assert_eq!(sight.open_kinds(), expected.open_kinds());
        for kind in Kind::ALL.iter().copied() {
            prop_assert_eq!(sight.is_open(kind), expected.is_open(kind));
            prop_assert_eq!(sight.admit(kind), expected.admit(kind));
        }
        for (name, _) in &models {
            let kinds = |sight: &Sight| sight.model(name).map(|model| model.kinds());
            prop_assert_eq!(kinds(&sight), kinds(&expected), "{}", name);
        }
    }
}
