//! Which namespaces someone may see.

use std::collections::BTreeSet;
use std::fmt;

use crate::namespace::{InvalidNamespace, Namespace, is_global_namespace};

/// The namespaces that a frontend discovers.
///
/// Everything that shows models goes through [`contains`](Self::contains).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamespaceScope {
    /// Every namespace.
    All,
    /// Exactly this one. `Only(a)` does not contain `global`.
    Only(Namespace),
    /// Exactly these. The empty set contains nothing.
    AnyOf(BTreeSet<Namespace>),
    /// This one and its generations: the namespace itself and `<namespace>-<8 lowercase hex>`.
    ///
    /// A rolling update starts a new generation beside the old one. Anyone may take such a name:
    /// `Generations(team-a)` also takes in a team that calls itself `team-a-deadbeef`.
    Generations(Namespace),
    /// Every namespace whose name begins with this text, literally.
    ///
    /// Newer Dynamo releases have it. Mind that `team` also matches `teamwork`; prefer
    /// [`Generations`](Self::Generations).
    Prefix(String),
}

impl NamespaceScope {
    /// The scope that a user asked for: all without a target or with the global one, else only it.
    ///
    /// # Errors
    ///
    /// When the target is no namespace.
    ///
    /// ```
    /// use dynamo_namespace::NamespaceScope;
    ///
    /// for all in [None, Some(""), Some("global")] {
    ///     assert_eq!(NamespaceScope::from_target(all)?, NamespaceScope::All);
    /// }
    /// assert_eq!(
    ///     NamespaceScope::from_target(Some("GLOBAL"))?,
    ///     NamespaceScope::Only("GLOBAL".parse()?),
    /// );
    /// assert!(NamespaceScope::from_target(Some(" ")).is_err());
    /// # Ok::<(), dynamo_namespace::InvalidNamespace>(())
    /// ```
    pub fn from_target(target: Option<&str>) -> Result<Self, InvalidNamespace> {
        match target {
            Some(target) if !is_global_namespace(target) => Ok(Self::Only(target.parse()?)),
            _ => Ok(Self::All),
        }
    }

    /// Whether someone with this scope may see what belongs to `namespace`.
    ///
    /// ```
    /// use dynamo_namespace::NamespaceScope;
    ///
    /// let scope = NamespaceScope::Generations("team-a".parse()?);
    /// assert!(scope.contains(&"team-a".parse()?));
    /// assert!(scope.contains(&"team-a-0f3c9a1b".parse()?));
    /// assert!(!scope.contains(&"team-a-canary".parse()?));
    /// # Ok::<(), dynamo_namespace::InvalidNamespace>(())
    /// ```
    #[must_use]
    pub fn contains(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Only(only) => only == namespace,
            Self::AnyOf(set) => set.contains(namespace),
            Self::Generations(base) => {
                namespace.as_str().strip_prefix(base.as_str()).is_some_and(|rest| {
                    rest.is_empty() || rest.strip_prefix('-').is_some_and(is_generation)
                })
            }
            Self::Prefix(prefix) => namespace.as_str().starts_with(prefix.as_str()),
        }
    }
}

/// For logs: what the scope contains, in a word or two.
impl fmt::Display for NamespaceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(namespace) => namespace.fmt(f),
            Self::AnyOf(set) => {
                for (index, namespace) in set.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{namespace}")?;
                }
                Ok(())
            }
            Self::Generations(namespace) => write!(f, "{namespace}[-generation]"),
            Self::Prefix(prefix) => write!(f, "{}*", prefix.escape_default()),
        }
    }
}

fn is_generation(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
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
        fn every_generation_is_contained(base in "[A-Za-z0-9_-]{1,40}", hash in any::<u32>()) {
            let scope = NamespaceScope::Generations(namespace(&base));
            let generation = namespace(&format!("{base}-{hash:08x}"));
            prop_assert!(scope.contains(&generation));
            prop_assert!(!NamespaceScope::Only(namespace(&base)).contains(&generation));
        }
    }
}
