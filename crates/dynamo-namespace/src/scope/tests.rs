//! Tests of the scopes: what each contains, and which is within which.

use proptest::prelude::*;

use super::*;

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

#[test]
fn a_target_is_everything_or_exactly_itself() {
    for all in [None, Some(""), Some("global")] {
        assert_eq!(NamespaceScope::from_target(all), Ok(NamespaceScope::All), "{all:?}");
    }
    for only in ["GLOBAL", "team-a", "a", "global-2"] {
        assert_eq!(
            NamespaceScope::from_target(Some(only)),
            Ok(NamespaceScope::Only(namespace(only)))
        );
    }
    for invalid in [" ", "global ", "a.b"] {
        assert!(NamespaceScope::from_target(Some(invalid)).is_err(), "{invalid:?}");
    }
}

#[test]
fn one_namespace_does_not_contain_the_global_one() {
    let scope = NamespaceScope::Only(namespace("a"));
    assert!(scope.contains(&namespace("a")));
    for other in ["global", "A", "ab", "a-", "b"] {
        assert!(!scope.contains(&namespace(other)), "{other}");
    }
}

#[test]
fn generations_end_in_eight_lowercase_hex_digits() {
    let scope = NamespaceScope::Generations(namespace("team-a"));
    for (name, inside) in [
        ("team-a", true),
        ("team-a-00000000", true),
        ("team-a-deadbeef", true),
        ("team-a-DEADBEEF", false),
        ("team-a-deadbee", false),
        ("team-a-deadbeef0", false),
        ("team-a-deadbeeg", false),
        ("team-a-", false),
        ("team-adeadbeef", false),
        ("team-a_deadbeef", false),
        ("team-a-deadbeef-deadbeef", false),
        ("team", false),
        ("teamwork", false),
        ("global", false),
    ] {
        assert_eq!(scope.contains(&namespace(name)), inside, "{name}");
    }
}

#[test]
fn a_literal_prefix_knows_no_boundary() {
    let scope = NamespaceScope::Prefix("team".into());
    assert!(scope.contains(&namespace("team")));
    assert!(scope.contains(&namespace("teamwork")));
    assert!(!scope.contains(&namespace("Team")));
}

#[test]
fn no_namespaces_contain_nothing() {
    assert!(!NamespaceScope::AnyOf(BTreeSet::new()).contains(&Namespace::global()));
}

#[test]
fn a_scope_is_within_another_where_every_name_of_it_is() {
    let any_of =
        |names: &[&str]| NamespaceScope::AnyOf(names.iter().map(|name| namespace(name)).collect());
    let only = |name| NamespaceScope::Only(namespace(name));
    let generations = |name| NamespaceScope::Generations(namespace(name));
    let prefix = |text: &str| NamespaceScope::Prefix(text.into());
    for (inner, outer, within) in [
        (only("a"), any_of(&["a", "b"]), true),
        (any_of(&["a", "c"]), any_of(&["a", "b"]), false),
        (any_of(&[]), only("a"), true),
        (any_of(&["a"]), only("a"), true),
        (any_of(&["a", "a-deadbeef"]), generations("a"), true),
        (generations("a"), only("a"), false),
        (generations("a-deadbeef"), generations("a"), false),
        (generations("a"), prefix("a"), true),
        (generations("a"), prefix("a-"), false),
        (prefix("ab"), prefix("a"), true),
        (prefix("a"), prefix("ab"), false),
        (prefix("a"), generations("a"), false),
        (NamespaceScope::All, prefix("a"), false),
    ] {
        assert_eq!(inner.is_within(&outer), within, "{inner} within {outer}");
    }
}

proptest! {
    #[test]
    fn all_contains_whatever_any_other_scope_contains(
        base in "[ab-]{1,3}",
        name in "[ab-]{1,3}(-[0-9a-f]{8})?",
    ) {
        let (base, name) = (namespace(&base), namespace(&name));
        let only = NamespaceScope::Only(base.clone());
        let set = NamespaceScope::AnyOf([base.clone()].into());
        let generations = NamespaceScope::Generations(base.clone());
        let prefix = NamespaceScope::Prefix(base.as_str().into());

        prop_assert!(NamespaceScope::All.contains(&name));
        prop_assert_eq!(only.contains(&name), base == name);
        prop_assert_eq!(only.contains(&name), set.contains(&name));
        // Each is wider than the one before it.
        prop_assert!(!only.contains(&name) || generations.contains(&name));
        prop_assert!(!generations.contains(&name) || prefix.contains(&name));
    }

    #[test]
    fn who_is_within_a_scope_sees_nothing_that_the_scope_does_not_contain(
        bases in ("[ab-]{1,2}(-[0-9a-f]{8})?", "[ab-]{1,2}"),
        shapes in (0_usize..5, 0_usize..5),
        names in proptest::collection::vec("[ab-]{1,3}(-[0-9a-f]{8})?", 1..20),
    ) {
        let scope = |base: &str, shape: usize| match shape {
            0 => NamespaceScope::All,
            1 => NamespaceScope::Only(namespace(base)),
            2 => NamespaceScope::AnyOf([namespace(base), namespace("a")].into()),
            3 => NamespaceScope::Generations(namespace(base)),
            _ => NamespaceScope::Prefix(base.to_owned()),
        };
        let (inner, outer) = (scope(&bases.0, shapes.0), scope(&bases.1, shapes.1));
        prop_assert!(inner.is_within(&inner) && inner.is_within(&NamespaceScope::All));
        for name in names.iter().chain([&bases.0]).map(|name| namespace(name)) {
            prop_assert!(
                !inner.is_within(&outer) || !inner.contains(&name) || outer.contains(&name),
                "{inner} {outer} {name}"
            );
        }
    }

    #[test]
    fn every_generation_is_contained(base in "[A-Za-z0-9_-]{1,40}", hash in any::<u32>()) {
        let scope = NamespaceScope::Generations(namespace(&base));
        let generation = namespace(&format!("{base}-{hash:08x}"));
        prop_assert!(scope.contains(&generation));
        prop_assert!(!NamespaceScope::Only(namespace(&base)).contains(&generation));
    }
}
