//! Which namespaces a frontend discovers.

use std::fmt::Display;
use std::str::FromStr;

use clap::Args;
use dynamo_discovery::WatchScope;
use dynamo_namespace::{EndpointId, Namespace, NamespaceScope, is_global_namespace, names};

use super::table;
use super::value::{Expected, YesNo};
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ScopeFlags {
    #[arg(long)]
    namespace: Option<String>,
    #[arg(long)]
    namespace_prefix: Option<String>,
    #[arg(long)]
    namespace_prefix_literal: bool,
    #[arg(long)]
    watch_scope: Option<WatchScopeName>,
}

/// A scope, and which keys of the store it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeSettings {
    pub(crate) scope: NamespaceScope,
    pub(crate) watch: WatchScope,
}

impl ScopeFlags {
    /// # Errors
    ///
    /// When what was given is no namespace, or nothing can be narrowed.
    pub(crate) fn resolve(self, environment: &Environment) -> Result<ScopeSettings, Failure> {
        let literal = self.namespace_prefix_literal
            || !table::NAMESPACE_PREFIX_LITERAL
                .given(None, environment)?
                .is_none_or(|YesNo(strict)| strict);
        let WatchScopeName(watch) = table::WATCH_SCOPE.resolve(self.watch_scope, environment)?;

        // Images set both variables, so a flag beats either one.
        let by_flags = Asked {
            namespace: self.namespace.as_deref(),
            prefix: self.namespace_prefix.as_deref(),
            names: ["--namespace", "--namespace-prefix"],
        };
        let variable = |setting: super::Setting| setting.variable.unwrap_or_default();
        let [namespace, prefix] = [table::TARGET_NAMESPACE, table::NAMESPACE_PREFIX].map(variable);
        let by_variables = Asked {
            namespace: environment.get(namespace),
            prefix: environment.get(prefix),
            names: [namespace, prefix],
        };
        let asked =
            if by_flags.namespace.or(by_flags.prefix).is_some() { by_flags } else { by_variables };
        let scope = asked.scope(literal)?;
        if watch == WatchScope::Key && scope == NamespaceScope::All {
            return Err(Failure::usage(
                "--watch-scope key needs a namespace to narrow to, and all are discovered: give \
                 --namespace, or leave --watch-scope out",
            ));
        }
        Ok(ScopeSettings { scope, watch })
    }
}

/// What one source, flags or variables, says.
struct Asked<'a> {
    namespace: Option<&'a str>,
    prefix: Option<&'a str>,
    names: [&'static str; 2],
}

impl Asked<'_> {
    fn scope(&self, literal: bool) -> Result<NamespaceScope, Failure> {
        let of = |name: &str, error: &dyn Display| Failure::usage(format!("{name}: {error}"));
        match self.prefix {
            None => NamespaceScope::from_target(self.namespace)
                .map_err(|error| of(self.names[0], &error)),
            Some(prefix) if is_global_namespace(prefix) => Ok(NamespaceScope::All),
            Some(prefix) => {
                // What begins a namespace is one itself.
                let base: Namespace = prefix.parse().map_err(|error| of(self.names[1], &error))?;
                Ok(if literal {
                    NamespaceScope::Prefix(prefix.to_owned())
                } else {
                    NamespaceScope::Generations(base)
                })
            }
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

#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchScopeName(WatchScope);

impl FromStr for WatchScopeName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "value" => Ok(Self(WatchScope::Value)),
            "key" => Ok(Self(WatchScope::Key)),
            _ => Err(Expected("value or key".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSET: Option<&str> = None;

    fn scope(
        (namespace, prefix, literal): (Option<&str>, Option<&str>, bool),
        (namespace_variable, prefix_variable, strict): (&str, &str, &str),
    ) -> Result<String, String> {
        let flags = ScopeFlags {
            namespace: namespace.map(Into::into),
            namespace_prefix: prefix.map(Into::into),
            namespace_prefix_literal: literal,
            watch_scope: None,
        };
        let environment = Environment::from([
            ("DYN_NAMESPACE", namespace_variable),
            ("DYN_NAMESPACE_PREFIX", prefix_variable),
            ("DYN_NAMESPACE_PREFIX_STRICT", strict),
        ]);
        let settings = flags.resolve(&environment);
        settings.map(|settings| settings.scope.to_string()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_flag_beats_the_environment_across_the_pair_and_the_prefix_wins_within_one_source() {
        let no_flags = (UNSET, UNSET, false);
        for (flags, variables, expected) in [
            (no_flags, ("", "", ""), "all"),
            (no_flags, ("a", "", ""), "a"),
            (no_flags, (" ", "\t", " "), "all"),
            (no_flags, ("global", "", ""), "all"),
            (no_flags, ("GLOBAL", "", ""), "GLOBAL"),
            (no_flags, ("a", "b", ""), "b[-generation]"),
            (no_flags, ("a", "global", ""), "all"),
            (no_flags, ("", "b", "1"), "b[-generation]"),
            (no_flags, ("", "b", "off"), "b*"),
            ((Some("c"), UNSET, false), ("a", "b", ""), "c"),
            ((Some(""), UNSET, false), ("a", "b", ""), "all"),
            ((Some("global"), UNSET, false), ("a", "b", ""), "all"),
            ((UNSET, Some("d"), false), ("a", "b", ""), "d[-generation]"),
            ((UNSET, Some(""), false), ("a", "b", ""), "all"),
            ((UNSET, Some("global"), true), ("a", "b", ""), "all"),
            ((UNSET, Some("d"), true), ("a", "b", "1"), "d*"),
            ((UNSET, Some("d"), false), ("a", "b", "0"), "d*"),
            ((Some("c"), Some("d"), false), ("a", "b", ""), "d[-generation]"),
            ((Some("c"), Some(""), false), ("a", "b", ""), "all"),
            ((Some("c"), UNSET, true), ("", "", "0"), "c"),
        ] {
            assert_eq!(scope(flags, variables).as_deref(), Ok(expected), "{flags:?} {variables:?}");
        }
    }

    #[test]
    fn what_is_no_namespace_is_told_with_its_source() {
        for (flags, variables, begin) in [
            ((Some("a b"), UNSET, false), ("", "", ""), "--namespace: invalid namespace \"a b\""),
            ((Some(" "), UNSET, false), ("", "", ""), "--namespace: invalid namespace \" \""),
            ((UNSET, Some("a.b"), true), ("", "", ""), "--namespace-prefix: invalid namespace"),
            ((UNSET, UNSET, false), ("a ", "", ""), "DYN_NAMESPACE: invalid namespace \"a \""),
            ((UNSET, UNSET, false), ("", "a/", ""), "DYN_NAMESPACE_PREFIX: invalid namespace"),
            ((UNSET, UNSET, false), ("", "a", "maybe"), "DYN_NAMESPACE_PREFIX_STRICT=\"maybe\": "),
        ] {
            let message = scope(flags, variables).unwrap_err();
            assert!(message.starts_with(begin), "{message}");
        }
    }

    #[test]
    fn only_a_scope_with_keys_of_its_own_can_be_watched_by_key() {
        let watch = |namespace: &str| {
            let key = Some("key".parse().unwrap());
            let namespace = Some(namespace.to_owned());
            ScopeFlags { namespace, watch_scope: key, ..ScopeFlags::default() }
                .resolve(&Environment::default())
        };
        assert_eq!(watch("a").unwrap().watch, WatchScope::Key);
        let failure = watch("global").unwrap_err();
        assert!(failure.to_string().starts_with("--watch-scope key needs a namespace"));
    }

    #[test]
    fn the_endpoint_id_of_a_frontend_begins_with_what_it_discovers() {
        for (flags, expected) in [
            ((Some("team-a"), UNSET, false), "team-a.frontend.http"),
            ((UNSET, Some("team"), false), "team.frontend.http"),
            ((UNSET, Some("team"), true), "team.frontend.http"),
            ((UNSET, UNSET, false), "global.frontend.http"),
        ] {
            let (namespace, prefix, literal) = flags;
            let flags = ScopeFlags {
                namespace: namespace.map(Into::into),
                namespace_prefix: prefix.map(Into::into),
                namespace_prefix_literal: literal,
                watch_scope: None,
            };
            let settings = flags.resolve(&Environment::default()).unwrap();
            assert_eq!(frontend_endpoint(&settings.scope).to_string(), expected);
        }
    }
}
