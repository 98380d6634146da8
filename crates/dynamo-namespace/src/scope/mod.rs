//! Scopes: sets of namespaces, and the one predicate that says whether a namespace is in one.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use crate::namespace::{InvalidNamespace, Namespace, is_global_namespace};

/// The namespaces that a frontend discovers.
///
/// Every function that shows models asks [`contains`](Self::contains).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamespaceScope {
    /// Every namespace.
    All,
    /// Exactly this namespace. `Only(a)` does not contain `global`.
    Only(Namespace),
    /// Exactly these namespaces. The empty set contains no namespace.
    AnyOf(BTreeSet<Namespace>),
    /// This namespace and its generations, which are named `<namespace>-<8 lowercase hex digits>`.
    ///
    /// A rolling update starts a new generation beside the old one. Any team may take such a name:
    /// `Generations(team-a)` also contains a team that calls itself `team-a-deadbeef`.
    Generations(Namespace),
    /// Every namespace whose name begins with this text, literally.
    ///
    /// Newer Dynamo releases have this scope. `Prefix(team)` also contains `teamwork`, so
    /// [`Generations`](Self::Generations) is the safer choice.
    Prefix(String),
}

impl NamespaceScope {
    /// The scope of a target: [`All`](Self::All) without a target or with the global one, else
    /// [`Only`](Self::Only) the target.
    ///
    /// # Errors
    ///
    /// When the target is no valid namespace.
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

    /// Whether the namespace is in the scope: a frontend with this scope shows its models.
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

    /// Whether every namespace in this scope is in `outer` too.
    ///
    /// ```
    /// use dynamo_namespace::NamespaceScope;
    ///
    /// let frontend = NamespaceScope::Generations("team-a".parse()?);
    /// assert!(NamespaceScope::Only("team-a-0f3c9a1b".parse()?).is_within(&frontend));
    /// assert!(!NamespaceScope::Only("team-b".parse()?).is_within(&frontend));
    /// assert!(!NamespaceScope::All.is_within(&frontend));
    /// # Ok::<(), dynamo_namespace::InvalidNamespace>(())
    /// ```
    pub fn is_within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (_, Self::All) => true,
            (Self::All, _) => false,
            (Self::Only(only), outer) => outer.contains(only),
            (Self::AnyOf(set), outer) => set.iter().all(|namespace| outer.contains(namespace)),
            (Self::Generations(base), Self::Generations(outer)) => base == outer,
            (Self::Generations(base), Self::Prefix(outer)) => base.as_str().starts_with(outer),
            (Self::Prefix(prefix), Self::Prefix(outer)) => prefix.starts_with(outer),
            // The inner scopes here have more names than any finite set, and a prefix has names that
            // are no generations of one base.
            (Self::Generations(_) | Self::Prefix(_), Self::Only(_) | Self::AnyOf(_)) => false,
            (Self::Prefix(_), Self::Generations(_)) => false,
        }
    }
}

/// A short form for logs: `all`, `team-a`, `team-a,team-b`, `team-a[-generation]` or `team*`.
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
