//! Which namespaces a frontend discovers.

use std::fmt::Display;

use dynamo_discovery::WatchScope;
use dynamo_namespace::{
    EndpointId, GLOBAL_NAMESPACE, Namespace, NamespaceScope, is_global_namespace, names,
};

use super::given::Given;
use super::table::Scope;
use super::value::YesNo;
use crate::failure::Failure;

/// A scope, and which keys of the store it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeSettings {
    pub(crate) scope: NamespaceScope,
    pub(crate) watch: WatchScope,
    /// All namespaces are discovered, and nothing says that this is meant.
    pub(crate) is_all_unsaid: bool,
}

/// # Errors
///
/// When a name is invalid, or when a watch is to be narrowed and all namespaces are discovered.
pub(crate) fn read(given: &Given) -> Result<ScopeSettings, Failure> {
    let asked = Scope::read(given)?;
    let YesNo(strict) = *asked.namespace_prefix_strict;
    let (scope, watch) =
        (scope(&asked, *asked.namespace_prefix_literal || !strict)?, *asked.watch_scope);
    if watch == WatchScope::Key && scope == NamespaceScope::All {
        return Err(Failure::usage(
            "--watch-scope key needs a namespace to narrow to, and all are discovered: give \
             --namespace, or leave --watch-scope out",
        ));
    }
    let names = [&asked.namespace, &asked.namespace_prefix];
    let is_said =
        *asked.all_namespaces || names.iter().any(|name| name.as_deref() == Some(GLOBAL_NAMESPACE));
    let is_all_unsaid = scope == NamespaceScope::All && !is_said;
    Ok(ScopeSettings { scope, watch, is_all_unsaid })
}

fn scope(asked: &Scope, literal: bool) -> Result<NamespaceScope, Failure> {
    let Scope { namespace, namespace_prefix: prefix, .. } = asked;
    let of = |source: String, error: &dyn Display| Failure::usage(format!("{source}: {error}"));
    // Images set both variables, so a flag wins over either one, as a variable does over the file.
    let first = namespace.origin.rank().min(prefix.origin.rank());
    if *asked.all_namespaces && asked.all_namespaces.origin.rank() <= first {
        return if asked.all_namespaces.origin.rank() == first {
            Err(Failure::usage(format!(
                "{} and a namespace are given: leave one of the two out",
                asked.all_namespaces.source()
            )))
        } else {
            Ok(NamespaceScope::All)
        };
    }
    match prefix.as_deref().filter(|_| prefix.origin.rank() == first) {
        None => NamespaceScope::from_target(namespace.as_deref())
            .map_err(|error| of(namespace.source(), &error)),
        Some(prefix) if is_global_namespace(prefix) => Ok(NamespaceScope::All),
        Some(text) => {
            // A prefix of a namespace is a namespace.
            let base: Namespace = text.parse().map_err(|error| of(prefix.source(), &error))?;
            Ok(if literal {
                NamespaceScope::Prefix(text.to_owned())
            } else {
                NamespaceScope::Generations(base)
            })
        }
    }
}

/// The namespace that stands for a scope: the one, or what the others begin with, or the global.
pub(crate) fn home(scope: &NamespaceScope) -> Namespace {
    match scope {
        NamespaceScope::Only(namespace) | NamespaceScope::Generations(namespace) => {
            namespace.clone()
        }
        NamespaceScope::Prefix(prefix) => prefix.parse().unwrap_or_default(),
        _ => Namespace::global(),
    }
}

/// The frontend's own endpoint id, `<namespace>.frontend.http`.
pub(crate) fn frontend_endpoint(scope: &NamespaceScope) -> EndpointId {
    EndpointId::new(home(scope), names::FRONTEND_COMPONENT, names::HTTP_ENDPOINT)
        .unwrap_or_else(|_| unreachable!("both names are valid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::FRONTEND;

    fn resolve(arguments: &[&str], variables: [&str; 3]) -> Result<ScopeSettings, String> {
        let [namespace, prefix, strict] = variables;
        let variables = [
            ("DYN_NAMESPACE", namespace),
            ("DYN_NAMESPACE_PREFIX", prefix),
            ("DYN_NAMESPACE_PREFIX_STRICT", strict),
        ];
        let given = given(&FRONTEND, arguments, variables)?;
        read(&given).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_flag_beats_the_environment_across_the_pair_and_the_prefix_wins_within_one_source() {
        for (flags, variables, expected) in [
            (&[][..], ["", "", ""], "all"),
            (&[], ["a", "", ""], "a"),
            (&[], [" ", "\t", " "], "all"),
            (&[], ["global", "", ""], "all"),
            (&[], ["GLOBAL", "", ""], "GLOBAL"),
            (&[], ["a", "b", ""], "b[-generation]"),
            (&[], ["a", "global", ""], "all"),
            (&[], ["", "b", "1"], "b[-generation]"),
            (&[], ["", "b", "off"], "b*"),
            (&["--namespace=c"], ["a", "b", ""], "c"),
            (&["--namespace="], ["a", "b", ""], "all"),
            (&["--namespace=global"], ["a", "b", ""], "all"),
            (&["--namespace-prefix=d"], ["a", "b", ""], "d[-generation]"),
            (&["--namespace-prefix="], ["a", "b", ""], "all"),
            (&["--namespace-prefix=global", "--namespace-prefix-literal"], ["a", "b", ""], "all"),
            (&["--namespace-prefix=d", "--namespace-prefix-literal"], ["a", "b", "1"], "d*"),
            (&["--namespace-prefix=d"], ["a", "b", "0"], "d*"),
            (&["--namespace=c", "--namespace-prefix=d"], ["a", "b", ""], "d[-generation]"),
            (&["--namespace=c", "--namespace-prefix="], ["a", "b", ""], "all"),
            (&["--namespace=c", "--namespace-prefix-literal"], ["", "", "0"], "c"),
        ] {
            let scope = resolve(flags, variables).map(|settings| settings.scope.to_string());
            assert_eq!(scope.as_deref(), Ok(expected), "{flags:?} {variables:?}");
        }
    }

    #[test]
    fn an_invalid_namespace_is_told_with_its_source() {
        for (flags, variables, begin) in [
            (&["--namespace=a b"][..], ["", "", ""], "--namespace: invalid namespace \"a b\""),
            (&["--namespace= "], ["", "", ""], "--namespace: invalid namespace \" \""),
            (
                &["--namespace-prefix=a.b", "--namespace-prefix-literal"],
                ["", "", ""],
                "--namespace-prefix: invalid namespace",
            ),
            (&[], ["a ", "", ""], "DYN_NAMESPACE: invalid namespace \"a \""),
            (&[], ["", "a/", ""], "DYN_NAMESPACE_PREFIX: invalid namespace"),
            (&[], ["", "a", "maybe"], "DYN_NAMESPACE_PREFIX_STRICT=\"maybe\": "),
        ] {
            let message = resolve(flags, variables).unwrap_err();
            assert!(message.starts_with(begin), "{message}");
        }
    }

    #[test]
    fn all_namespaces_are_discovered_unsaid_unless_a_flag_or_the_global_name_says_so() {
        for (flags, namespace, expected) in [
            (&[][..], "", Some(true)),
            (&["--namespace="], "", Some(true)),
            (&["--namespace="], "a", Some(true)),
            (&["--namespace=global"], "", Some(false)),
            (&[], "global", Some(false)),
            (&["--all-namespaces"], "a", Some(false)),
            (&[], "a", None),
        ] {
            let settings = resolve(flags, [namespace, "", ""]).unwrap();
            let unsaid = settings.is_all_unsaid;
            let found = (settings.scope == NamespaceScope::All).then_some(unsaid);
            assert_eq!(found, expected, "{flags:?} {namespace}");
        }
        for name in ["--namespace=a", "--namespace-prefix=a"] {
            let message = resolve(&["--all-namespaces", name], [""; 3]).unwrap_err();
            assert!(message.starts_with("--all-namespaces and a namespace"), "{message}");
        }
    }

    #[test]
    fn only_a_scope_with_keys_of_its_own_can_be_watched_by_key() {
        let watch = |namespace| resolve(&["--watch-scope=key", namespace], [""; 3]);
        assert_eq!(watch("--namespace=a").unwrap().watch, WatchScope::Key);
        let message = watch("--namespace=global").unwrap_err();
        assert!(message.starts_with("--watch-scope key needs a namespace"), "{message}");
    }

    #[test]
    fn the_endpoint_id_of_a_frontend_begins_with_what_it_discovers() {
        for (flags, expected) in [
            (&["--namespace=team-a"][..], "team-a.frontend.http"),
            (&["--namespace-prefix=team"], "team.frontend.http"),
            (&["--namespace-prefix=team", "--namespace-prefix-literal"], "team.frontend.http"),
            (&[], "global.frontend.http"),
        ] {
            let settings = resolve(flags, [""; 3]).unwrap();
            assert_eq!(frontend_endpoint(&settings.scope).to_string(), expected);
        }
    }
}
