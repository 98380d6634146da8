//! Which tables are valid, who gets which share, and what a caller sees of a table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynamo_discovery::{Instance, Key, Kind, Kinds, ModelEntry, ModelUpdate};
use dynamo_namespace::{Namespace, NamespaceScope};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::error::ApiError;
use crate::view::{Lens, ModelNames, Switchboard, SwitchboardWriter, update_http_endpoints};

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

fn target(model: &str) -> AliasTarget {
    AliasTarget::new(model)
}

fn within(model: &str, name: &str) -> AliasTarget {
    target(model).with_namespace(namespace(name))
}

fn table(aliases: impl IntoIterator<Item = Alias>) -> AliasTable {
    AliasTable::new(aliases).unwrap()
}

#[test]
fn a_table_that_cannot_be_meant_is_refused() {
    let refused = |aliases: Vec<Alias>| AliasTable::new(aliases).unwrap_err().to_string();
    let alias = |name, targets: &[AliasTarget]| Alias::new(name, targets.to_vec());
    for (aliases, expected) in [
        (vec![alias("a", &[])], "\"a\" needs a target with a weight above 0"),
        (vec![alias("a", &[target("m").with_weight(0)])], "\"a\" needs a target with a weight"),
        (vec![alias("", &[target("m")])], "\"\" is no name of a model"),
        (vec![alias("a\u{202e}", &[target("m")])], "\"a\\u{202e}\" is no name of a model"),
        (vec![alias("a", &[target("")])], "a target of \"a\" has \"\", which is no name"),
        (
            vec![alias("a", &[target("m")]), alias("a", &[target("n")])],
            "there are two aliases \"a\"",
        ),
        (vec![alias("a", &[target("m"), target("m")])], "\"a\" names \"m\" twice"),
        (vec![alias("a", &[within("m", "x"), within("m", "x")])], "\"a\" names \"m\" twice"),
        (vec![alias("a", &[target("m")]).with_fallback([target("m")])], "\"a\" names \"m\" twice"),
        (
            vec![alias("a", &[target("b")]), alias("b", &[target("m")])],
            "\"a\" has the target \"b\", which is an alias itself",
        ),
        (
            vec![
                alias("a", &[target("m")]).with_fallback([target("b")]),
                alias("b", &[target("m")]),
            ],
            "\"a\" has the target \"b\", which is an alias itself",
        ),
    ] {
        let message = refused(aliases);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn an_alias_may_stand_for_generations_of_the_model_of_its_own_name() {
    let alias = Alias::new("m", [within("m", "x"), within("m", "y"), target("n").with_weight(0)]);
    let table = table([alias]);
    let alias = table.get("m").unwrap();
    assert_eq!(alias.targets.len(), 2, "a weight of 0 is as if the target were not there");
    assert!(alias.stands_for_itself());
    assert_eq!(
        (alias.asks_as(&alias.targets[0]), alias.answers_as(&alias.targets[0])),
        (None, None)
    );
}

/// The model that each of many sessions gets, with these weights.
fn shared_out(weights: &[u32]) -> Vec<String> {
    let targets: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(number, weight)| target(&format!("m{number}")).with_weight(*weight))
        .collect();
    let first = |session: u32| {
        let mut order: Vec<_> = targets.iter().filter(|target| target.weight() > 0).collect();
        let session = share::session(format!("session-{session}").as_bytes());
        share::sort(&mut order, session, |target| target.ticket());
        order[0].model().to_owned()
    };
    (0..100_000).map(first).collect()
}

fn share(of: &str, all: &[String]) -> f64 {
    all.iter().filter(|model| *model == of).count() as f64 / all.len() as f64
}

#[test]
fn shares_are_within_one_percent_of_their_weights() {
    for weights in [&[95, 5][..], &[1, 1], &[50, 30, 20], &[1, 1000], &[7]] {
        let all = shared_out(weights);
        let sum: u32 = weights.iter().sum();
        for (number, weight) in weights.iter().enumerate() {
            let (got, ideal) =
                (share(&format!("m{number}"), &all), f64::from(*weight) / f64::from(sum));
            assert!((got - ideal).abs() < 0.01, "{weights:?}: {got} for {ideal}");
        }
    }
}

#[test]
fn a_change_of_weights_moves_those_sessions_only_that_must_move() {
    for (before, after) in [
        (&[95, 5][..], &[50, 50][..]),
        (&[95, 5], &[90, 10]),
        (&[90, 10], &[100, 0]),
        (&[100, 0], &[90, 10]),
        (&[50, 30, 20], &[50, 30, 80]),
        (&[50, 30, 20], &[50, 30, 0]),
    ] {
        let (one, other) = (shared_out(before), shared_out(after));
        let moved = one.iter().zip(&other).filter(|(one, other)| one != other).count();
        let moved = moved as f64 / one.len() as f64;
        // The least that must move: what all growing shares gain.
        let part = |weights: &[u32], at: usize| {
            f64::from(weights[at]) / f64::from(weights.iter().sum::<u32>())
        };
        let gains = |at: usize| (part(after, at) - part(before, at)).max(0.0);
        let ideal: f64 = (0..before.len()).map(gains).sum();
        assert!((moved - ideal).abs() < 0.01, "{before:?} {after:?}: {moved} for {ideal}");
        let loses = |model: &str| {
            let at: usize = model[1..].parse().unwrap();
            part(after, at) < part(before, at)
        };
        let needless = one.iter().zip(&other).filter(|(one, other)| one != other && !loses(one));
        assert_eq!(needless.count(), 0, "{before:?} {after:?}: nobody leaves a share that grows");
    }
}

/// An instance as a test describes it: namespace, model, kind, number.
type Described = (&'static str, &'static str, Kind, u8);

fn instance((name, model, kind, number): Described) -> Arc<Instance> {
    let endpoint = format!("{name}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new(model, endpoint, Kinds::from(kind)).unwrap();
    let entry = entry.with_created(number.into()).with_context_length(u64::from(number) + 1);
    Arc::new(Instance::new(Key::from(format!("models/{name}/{number}/{model}")), None, entry))
}

/// A lens of a scope in a world with these instances.
fn lens(scope: &NamespaceScope, instances: &BTreeSet<Described>) -> (Lens, SwitchboardWriter) {
    let (switchboard, mut writer) = Switchboard::new([scope.clone()]);
    let added: Vec<_> = instances.iter().map(|one| ModelUpdate::Added(instance(*one))).collect();
    writer.stage_ready();
    update_http_endpoints(&mut writer, &added);
    (switchboard.live_view(scope).into(), writer)
}

fn code(admitted: Result<(), ApiError>) -> String {
    admitted.map_or_else(|error| error.to_json().to_string(), |()| "open".to_owned())
}

fn describe(offered: &Offered<'_>) -> String {
    match offered {
        Offered::Model(model) => {
            let context = model.context_length();
            format!("model {} {} {context:?}", model.name(), model.created())
        }
        Offered::Alias(shown) => {
            let (created, context) = (shown.created(), shown.context_length());
            let steps = |kind| {
                let steps = shown.steps(kind, Some(b"s"));
                let step = |step: &Step| {
                    let (target, falls_back) = (&step.target, step.falls_back);
                    format!("{} {:?} {falls_back}", target.model(), target.namespace())
                };
                steps.iter().map(step).collect::<Vec<_>>()
            };
            let (chat, embedding) = (steps(Kind::Chat), steps(Kind::Embedding));
            let kinds = shown.kinds();
            format!(
                "alias {} {created} {context:?} {kinds:?} {chat:?} {embedding:?}",
                shown.alias.name()
            )
        }
    }
}

const NAMES: [&str; 6] = ["a", "b", "m", "n", "o", "nobodys"];

/// All that a caller can learn of names: its list, each name, and which routes are open.
fn told(lens: &Lens, table: &AliasTable) -> Vec<String> {
    let sight = lens.look();
    let offer = Offer::new(&sight, Some(table));
    let listed = offer.listed();
    let mut told: Vec<_> = listed.iter().map(describe).collect();
    told.extend(NAMES.map(|name| offer.get(name).as_ref().map_or_else(String::new, describe)));
    told.extend([Kind::Chat, Kind::Embedding].map(|kind| code(offer.admit(kind))));
    told
}

const MINE: [&str; 2] = ["mine", "mine-0f3c9a1b"];
const THEIRS: [&str; 2] = ["theirs", "mine-too"];

fn any_described() -> impl Strategy<Value = Described> {
    let names = [MINE, THEIRS].concat();
    (
        select(names),
        select(vec!["m", "n", "o", "a"]),
        select(vec![Kind::Chat, Kind::Embedding]),
        0..3_u8,
    )
}

fn any_target() -> impl Strategy<Value = AliasTarget> {
    let names: Vec<_> = MINE.into_iter().chain(THEIRS).map(Some).chain([None]).collect();
    (select(vec!["m", "n", "o", "a"]), select(names), 0..4_u32).prop_map(|(model, name, weight)| {
        let target = target(model).with_weight(weight);
        match name {
            Some(name) => target.with_namespace(namespace(name)),
            None => target,
        }
    })
}

fn any_alias(name: &'static str) -> impl Strategy<Value = Alias> {
    let targets = || proptest::collection::vec(any_target(), 0..4);
    (targets(), targets(), any::<bool>()).prop_map(move |(targets, fallback, listed)| {
        Alias::new(name, targets).with_fallback(fallback).with_listed(listed)
    })
}

/// Tables that are valid.
fn any_table() -> impl Strategy<Value = AliasTable> {
    (any_alias("a"), any_alias("b")).prop_filter_map("valid", |(one, other)| {
        let all = [one, other].into_iter().filter(|one| AliasTable::new([one.clone()]).is_ok());
        AliasTable::new(all).ok()
    })
}

/// The table with what a scope cannot see changed: targets elsewhere have other names and weights, and
/// some of them are gone.
fn changed(table: &AliasTable, scope: &NamespaceScope, seed: u32) -> AliasTable {
    let is_mine = |target: &AliasTarget| target.namespace().is_none_or(|one| scope.contains(one));
    let change = |targets: &[AliasTarget], whose: &str| {
        let mut changed = Vec::new();
        for (at, one) in targets.iter().enumerate() {
            if is_mine(one) {
                changed.push(one.clone());
            } else if (seed >> at) & 1 == 0 {
                changed.push(
                    within(&format!("{whose}-{seed}-{at}"), THEIRS[at % 2])
                        .with_weight(seed % 7 + 1),
                );
            }
        }
        changed
    };
    let aliases = table.iter().map(|alias| {
        let mut new = Alias::clone(alias);
        (new.targets, new.fallback) =
            (change(&alias.targets, "target"), change(&alias.fallback, "fallback"));
        if new.targets.is_empty() {
            new.targets.push(within("gone", THEIRS[0]));
        }
        new
    });
    AliasTable::new(aliases).unwrap()
}

proptest! {
    #[test]
    fn what_a_caller_is_told_never_depends_on_what_it_cannot_see(
        instances in proptest::collection::btree_set(any_described(), 0..10),
        others in proptest::collection::btree_set(any_described(), 0..6),
        table in any_table(),
        names in proptest::option::of(proptest::collection::vec(select(NAMES.to_vec()), 0..4)),
        seed in any::<u32>(),
    ) {
        let scope = NamespaceScope::Generations(namespace("mine"));
        let is_mine = |one: &Described| scope.contains(&namespace(one.0));
        let elsewhere: BTreeSet<_> = others.into_iter().filter(|one| !is_mine(one))
            .chain(instances.iter().copied().filter(is_mine)).collect();
        let caller = |instances| {
            let (lens, writer) = lens(&scope, instances);
            let lens = match &names {
                Some(names) => lens.with_names(ModelNames::new(names).unwrap()),
                None => lens,
            };
            (lens, writer)
        };
        let (here, _writer) = caller(&instances);
        let (there, _other_writer) = caller(&elsewhere);
        let table_there = changed(&table, &scope, seed);
        prop_assert_eq!(told(&here, &table), told(&there, &table_there));
    }

    #[test]
    fn an_alias_without_a_visible_target_is_as_if_it_were_not_in_the_table(
        instances in proptest::collection::btree_set(any_described(), 0..10),
        table in any_table(),
        names in proptest::option::of(proptest::collection::vec(select(NAMES.to_vec()), 0..4)),
    ) {
        let scope = NamespaceScope::Generations(namespace("mine"));
        let (lens, _writer) = lens(&scope, &instances);
        let lens = match &names {
            Some(names) => lens.with_names(ModelNames::new(names).unwrap()),
            None => lens,
        };
        let serves = |target: &AliasTarget| instances.iter().any(|(name, model, ..)| {
            let name = namespace(name);
            *model == target.model() && scope.contains(&name)
                && target.namespace().is_none_or(|one| *one == name)
        });
        let visible = table.iter().filter(|alias| {
            let mut all = alias.targets.iter().chain(&alias.fallback);
            all.any(serves)
                && names.as_ref().is_none_or(|names| names.contains(&alias.name()))
        });
        let visible = AliasTable::new(visible.map(|alias| Alias::clone(alias))).unwrap();
        prop_assert_eq!(told(&lens, &table), told(&lens, &visible));
    }
}

#[test]
fn a_key_needs_the_permission_for_the_name_that_it_asks_for_and_no_other() {
    let scope = NamespaceScope::All;
    let chat = |model| ("x", model, Kind::Chat, 0);
    let (all, _writer) = lens(&scope, &[chat("m"), ("x", "n", Kind::Embedding, 1)].into());
    let table = table([Alias::new("a", [target("m")]), Alias::new("b", [target("n")])]);
    let told = |names: &[&str]| {
        let sight = all.clone().with_names(ModelNames::new(names).unwrap()).look();
        let offer = Offer::new(&sight, Some(&table));
        let listed = offer.listed();
        let name = |one: &Offered<'_>| match one {
            Offered::Model(model) => model.name().to_owned(),
            Offered::Alias(shown) => shown.alias.name().to_owned(),
        };
        let listed: Vec<_> = listed.iter().map(name).collect();
        (listed.join(","), offer.admit(Kind::Chat).is_ok(), offer.admit(Kind::Embedding).is_ok())
    };
    assert_eq!(told(&["a"]), ("a".into(), true, false), "the alias alone opens its route");
    assert_eq!(told(&["b"]), ("b".into(), false, true));
    assert_eq!(told(&["m"]), ("m".into(), true, false), "a target is no permission for its alias");
    assert_eq!(told(&["nobodys"]), (String::new(), false, false));
    assert_eq!(told(&["*"]), ("a,b,m,n".into(), true, true));
}

#[test]
fn an_alias_wins_over_a_model_in_lists_and_look_ups_and_only_where_it_has_a_target() {
    let scope = NamespaceScope::All;
    let (lens, _writer) =
        lens(&scope, &[("x", "m", Kind::Chat, 5), ("y", "n", Kind::Chat, 7)].into());
    let sight = lens.look();
    let listed = |table: &AliasTable| {
        let offer = Offer::new(&sight, Some(table));
        offer.listed().iter().map(describe).collect::<Vec<_>>()
    };
    let alias = |model| Alias::new("m", [target(model)]);
    let shown = listed(&table([alias("n")]));
    assert!(
        shown[0].starts_with("alias m 7 Some(8)") && shown[1].starts_with("model n"),
        "{shown:?}"
    );
    assert_eq!(listed(&table([alias("gone")])), ["model m 5 Some(6)", "model n 7 Some(8)"]);
    assert_eq!(listed(&table([alias("n").with_listed(false)])), ["model n 7 Some(8)"]);
}

#[test]
fn a_target_with_a_namespace_is_the_part_of_the_model_in_it() {
    let scope = NamespaceScope::All;
    let instances =
        [("x", "m", Kind::Chat, 1), ("x", "m", Kind::Chat, 3), ("y", "m", Kind::Embedding, 2)];
    let (lens, _writer) = lens(&scope, &instances.into());
    let sight = lens.look();
    let alias = |name, of| Alias::new(name, [within("m", of)]);
    let table = table([alias("a", "x"), alias("b", "y"), alias("c", "z")]);
    let offer = Offer::new(&sight, Some(&table));
    let of = |name| offer.alias(name).map(|shown| (shown.kinds(), shown.context_length()));
    assert_eq!(of("a"), Some((Kind::Chat.into(), Some(2))));
    assert_eq!(of("b"), Some((Kind::Embedding.into(), Some(3))));
    assert_eq!(of("c"), None);
}

#[test]
fn requests_without_a_session_are_shared_out_one_by_one() {
    let scope = NamespaceScope::All;
    let (lens, _writer) =
        lens(&scope, &[("x", "m", Kind::Chat, 1), ("x", "n", Kind::Chat, 1)].into());
    let sight = lens.look();
    let table = table([Alias::new("a", [target("m").with_weight(3), target("n")])]);
    let shown = Offer::new(&sight, Some(&table)).alias("a").unwrap();
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..10_000 {
        let first = shown.steps(Kind::Chat, None)[0].target.model().to_owned();
        *counts.entry(first).or_default() += 1;
    }
    assert!((7200..7800).contains(&counts["m"]), "{counts:?}");
    let of = |session: &[u8]| shown.steps(Kind::Chat, Some(session))[0].target.model().to_owned();
    assert_eq!(of(b"s"), of(b"s"), "a session stays");
}
