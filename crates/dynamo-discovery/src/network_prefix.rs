//! The root of the keys, and the ranges of keys below it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use dynamo_namespace::NamespaceScope;

use crate::model_key::ModelKey;
use crate::store::{Key, KeyRange};

/// Where entries are stored, unless a configuration says otherwise.
pub const MODEL_ROOT_PATH: &str = "models/";

/// The root below which entries are stored, such as `models/`: one to 512 visible ASCII characters,
/// the last of them `/`.
///
/// Without the `/` at its end, `models` would also take in the keys of `models-of-others/`. By
/// default it is [`MODEL_ROOT_PATH`]. A clone is cheap.
///
/// ```
/// use dynamo_discovery::NetworkPrefix;
///
/// let prefix: NetworkPrefix = "staging/models/".parse()?;
/// assert_eq!(prefix.as_str(), "staging/models/");
/// assert_eq!(NetworkPrefix::default().to_string(), "models/");
/// assert!(NetworkPrefix::new("models").is_err());
/// # Ok::<(), dynamo_discovery::InvalidPrefix>(())
/// ```
#[derive(Clone, derive_more::Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[debug("{_0:?}")]
pub struct NetworkPrefix(Arc<str>);

impl NetworkPrefix {
    /// The longest prefix in bytes.
    pub const MAX_LEN: usize = 512;

    /// The prefix of this text.
    ///
    /// # Errors
    ///
    /// When the text is too long, does not end in `/`, or has a character that is not visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidPrefix> {
        if text.len() > Self::MAX_LEN {
            return Err(InvalidPrefix::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidPrefix::Character);
        }
        if !text.ends_with('/') {
            return Err(InvalidPrefix::NoSlash);
        }
        Ok(Self(text.into()))
    }

    /// The text, with the `/` at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full key of an entry.
    pub fn key(&self, key: &ModelKey) -> Key {
        format!("{self}{key}").into()
    }

    /// All keys below the root.
    pub fn range(&self) -> KeyRange {
        KeyRange::prefix(self.as_str())
    }

    /// The narrowest range that covers all *native* keys of a scope; `None` where it is no narrower
    /// than [`range`](Self::range). It may have keys of other scopes.
    pub fn narrow_range(&self, scope: &NamespaceScope) -> Option<KeyRange> {
        match scope {
            NamespaceScope::Only(only) => Some(KeyRange::prefix(&format!("{self}{only}/"))),
            // `-` < `/` < `0`: the range goes from `base-…` to `base/…`. It has a few keys of other
            // namespaces, which the catalog drops.
            NamespaceScope::Generations(base) => {
                Some(KeyRange::new(format!("{self}{base}-"), format!("{self}{base}0")))
            }
            NamespaceScope::Prefix(prefix) if !prefix.is_empty() => {
                Some(KeyRange::prefix(&format!("{self}{prefix}")))
            }
            NamespaceScope::AnyOf(set) => {
                // Keys are not in the order of their namespaces (`a-b/` < `a/`), so the range begins
                // at the longest start that all names share.
                let shared = shared_start(set.first()?.as_str(), set.last()?.as_str());
                (!shared.is_empty()).then(|| KeyRange::prefix(&format!("{self}{shared}")))
            }
            _ => None,
        }
    }
}

fn shared_start<'a>(a: &'a str, b: &str) -> &'a str {
    // Namespaces are ASCII, so every byte is a character.
    &a[..a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()]
}

/// [`MODEL_ROOT_PATH`].
impl Default for NetworkPrefix {
    fn default() -> Self {
        Self(MODEL_ROOT_PATH.into())
    }
}

impl FromStr for NetworkPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<&str> for NetworkPrefix {
    type Error = InvalidPrefix;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl TryFrom<String> for NetworkPrefix {
    type Error = InvalidPrefix;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl AsRef<str> for NetworkPrefix {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetworkPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a text is no [`NetworkPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPrefix {
    /// It is longer than [`NetworkPrefix::MAX_LEN`].
    #[error("the prefix of the keys is longer than {} bytes", NetworkPrefix::MAX_LEN)]
    TooLong,
    /// It has a character that is not visible ASCII.
    #[error("the prefix of the keys has a character that is not visible ASCII")]
    Character,
    /// It does not end in `/`.
    #[error("the prefix of the keys does not end in '/'")]
    NoSlash,
}

#[cfg(test)]
mod tests {
    use dynamo_namespace::Namespace;
    use proptest::prelude::*;

    use super::*;
    use crate::model_key::may_belong;

    #[test]
    fn a_prefix_ends_in_a_slash_and_is_visible() {
        for text in ["/", "models/", "a/b/models/", "/dynamo/models/", "x:y%/"] {
            let prefix = NetworkPrefix::new(text).unwrap();
            assert_eq!(prefix.as_str(), text);
            assert_eq!(prefix.to_string().parse(), Ok(prefix.clone()));
            assert_eq!(NetworkPrefix::try_from(text.to_owned()), Ok(prefix));
        }
        let long = format!("{}/", "a".repeat(NetworkPrefix::MAX_LEN));
        for (text, expected) in [
            ("", InvalidPrefix::NoSlash),
            ("models", InvalidPrefix::NoSlash),
            ("models/x", InvalidPrefix::NoSlash),
            ("mod els/", InvalidPrefix::Character),
            ("models/\n", InvalidPrefix::Character),
            ("modèles/", InvalidPrefix::Character),
            (&long, InvalidPrefix::TooLong),
        ] {
            assert_eq!(NetworkPrefix::try_from(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn the_default_is_valid() {
        let default = NetworkPrefix::default();
        assert_eq!(NetworkPrefix::new(default.as_str()), Ok(default));
    }
    #[test]
    fn the_narrow_range_of_one_namespace_ends_at_its_slash() {
        let models = NetworkPrefix::default();
        let scope = NamespaceScope::Only(Namespace::new("team-a").unwrap());
        let range = models.narrow_range(&scope).unwrap();
        assert!(range.contains(&"models/team-a/b/c/1/m".into()));
        assert!(!range.contains(&"models/team-a-deadbeef/b/c/1/m".into()));
        assert!(!range.contains(&"models/team-ab/b/c/1/m".into()));
        assert_eq!(models.narrow_range(&NamespaceScope::All), None);
    }

    proptest! {
        #[test]
        fn the_narrow_range_covers_every_native_key_of_its_scope(
            base in "[ab-]{1,3}",
            others in proptest::collection::btree_set("[ab-]{1,3}", 0..3),
            namespace in "[ab-]{1,3}(-[0-9a-f]{8})?",
        ) {
            let namespace = Namespace::new(&namespace).unwrap();
            let base = Namespace::new(&base).unwrap();
            let key: Key = format!("models/{namespace}/backend/generate/1/m").into();
            for scope in [
                NamespaceScope::Only(base.clone()),
                NamespaceScope::Generations(base.clone()),
                NamespaceScope::Prefix(base.as_str().into()),
                NamespaceScope::AnyOf(
                    others.iter().map(|name| name.parse().unwrap()).chain([base.clone()]).collect(),
                ),
            ] {
                if scope.contains(&namespace) {
                    let range = NetworkPrefix::default().narrow_range(&scope);
                    prop_assert!(range.is_none_or(|range| range.contains(&key)), "{}", scope);
                    prop_assert!(may_belong(&scope, &key.as_bytes()["models/".len()..]));
                }
            }
        }
    }
}
