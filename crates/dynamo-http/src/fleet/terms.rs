//! Under which terms the workers of a namespace are reached: where they may be, and with which key.

use std::collections::BTreeMap;

use dynamo_namespace::{Namespace, NamespaceScope};

use super::network::{Network, Networks};
use super::worker_key::WorkerKey;

/// The terms for the workers of one namespace, or of all namespaces that have none of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) networks: Networks,
    pub(crate) key: WorkerKey,
}

/// What there is for a namespace: its own, else that of the namespace whose generation it is.
///
/// A generation is not free of what binds its namespace: whoever may write the one may write the
/// other.
pub(super) fn own<'a, T>(all: &'a BTreeMap<Namespace, T>, namespace: &Namespace) -> Option<&'a T> {
    let of_base = || {
        let is_base = |base: &Namespace| {
            namespace.as_str().len() > base.as_str().len()
                && namespace.as_str().starts_with(base.as_str())
                && NamespaceScope::Generations(base.clone()).contains(namespace)
        };
        all.iter().find(|(base, _)| is_base(base)).map(|(_, own)| own)
    };
    all.get(namespace).or_else(of_base)
}

/// The networks of a namespace, from those of each namespace and those that all share.
///
/// Where any network is named, a namespace without one gets those that all share, and may be nowhere
/// if there are none: a fence has no hole for a namespace that nobody thought of.
pub(crate) fn networks_of(
    shared: &[Network],
    each: &BTreeMap<Namespace, Vec<Network>>,
    namespace: Option<&Namespace>,
) -> Networks {
    if shared.is_empty() && each.is_empty() {
        return Networks::default();
    }
    let own = namespace.and_then(|namespace| own(each, namespace));
    Networks::of(own.map_or(shared, Vec::as_slice).iter().copied())
}

/// The key for the workers of a namespace, from those of each namespace and the one that all share.
pub(crate) fn key_of(
    shared: &WorkerKey,
    each: &BTreeMap<Namespace, WorkerKey>,
    namespace: Option<&Namespace>,
) -> WorkerKey {
    namespace.and_then(|namespace| own(each, namespace)).unwrap_or(shared).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn a_namespace_has_its_own_networks_only_and_its_generations_have_the_same() {
        let each = BTreeMap::from([
            (namespace("team-a"), networks(&["192.0.2.0/28"])),
            (namespace("team-b"), networks(&["192.0.2.16/28"])),
            (namespace("team-b-0f3c9a1b"), networks(&["192.0.2.32/28"])),
        ]);
        for (shared, name, address, expected) in [
            (&[][..], "team-a", "192.0.2.1", true),
            (&[], "team-a", "192.0.2.17", false),
            (&[], "team-b", "192.0.2.17", true),
            (&[], "team-b", "192.0.2.1", false),
            (&[], "team-b-deadbeef", "192.0.2.17", true),
            (&[], "team-b-deadbeef", "192.0.2.1", false),
            (&[], "team-b-0f3c9a1b", "192.0.2.33", true),
            (&[], "team-b-0f3c9a1b", "192.0.2.17", false),
            // A namespace that only begins like another one is none of its generations.
            (&[], "team-bc", "192.0.2.17", false),
            (&[], "team-c", "192.0.2.1", false),
            (&["198.51.100.0/24"], "team-c", "198.51.100.1", true),
            (&["198.51.100.0/24"], "team-c", "192.0.2.1", false),
            (&["198.51.100.0/24"], "team-a", "198.51.100.1", false),
        ] {
            let found = networks_of(&networks(shared), &each, Some(&namespace(name)));
            assert_eq!(found.permit(address.parse().unwrap()), expected, "{name} {address}");
        }
        let anywhere = networks_of(&[], &BTreeMap::new(), Some(&namespace("team-a")));
        assert_eq!(anywhere, Networks::default());
    }

    #[test]
    fn a_namespace_has_its_own_key_else_the_one_that_all_share() {
        let key = |text| {
            let key = WorkerKey::default();
            key.set(text).unwrap();
            key
        };
        let each = BTreeMap::from([(namespace("team-a"), key("a"))]);
        let of = |shared: &WorkerKey, name| key_of(shared, &each, Some(&namespace(name))).header();
        let (shared, none) = (key("all"), WorkerKey::default());
        assert_eq!(of(&shared, "team-a").unwrap(), "Bearer a");
        assert_eq!(of(&shared, "team-a-0f3c9a1b").unwrap(), "Bearer a");
        assert_eq!(of(&shared, "team-b").unwrap(), "Bearer all");
        assert_eq!(of(&none, "team-b"), None);
    }
}
