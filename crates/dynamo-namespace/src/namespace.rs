//! Namespaces: which names are valid, and which one is global.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The namespace of workers that chose no other one.
///
/// As the target of a frontend it stands for all namespaces.
pub const GLOBAL_NAMESPACE: &str = "global";

/// The longest name in bytes, as in Kubernetes.
pub(crate) const MAX_LEN: usize = 253;

/// Whether `namespace` names the global namespace: it is empty or exactly [`GLOBAL_NAMESPACE`].
///
/// Case counts and nothing is trimmed, as in Dynamo.
///
/// ```
/// use dynamo_namespace::is_global_namespace;
///
/// assert!(is_global_namespace(""));
/// assert!(is_global_namespace("global"));
/// assert!(!is_global_namespace("GLOBAL"));
/// assert!(!is_global_namespace(" "));
/// assert!(!is_global_namespace("global "));
/// ```
pub fn is_global_namespace(namespace: &str) -> bool {
    namespace.is_empty() || namespace == GLOBAL_NAMESPACE
}

/// Whether `name` is one to 253 of `[A-Za-z0-9_-]`.
///
/// Names of components and endpoints follow the same rule. So each of these names can stand in a key
/// of a store, or in a dotted id, without being escaped.
pub(crate) fn is_valid_name(name: &str) -> bool {
    (1..=MAX_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// A valid namespace: one to 253 of `[A-Za-z0-9_-]`.
///
/// The length leaves room for `<Kubernetes namespace>-<deployment>-<hash>`, which operators compose.
/// The empty name is that of the global namespace. A clone is cheap.
///
/// ```
/// use dynamo_namespace::Namespace;
///
/// let namespace = Namespace::new("team-a")?;
/// assert_eq!(namespace.as_str(), "team-a");
/// assert_eq!(namespace, "team-a".parse()?);
/// assert_eq!(Namespace::new("")?, Namespace::global());
/// assert!(Namespace::new("a/../b").is_err());
/// # Ok::<(), dynamo_namespace::InvalidNamespace>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace with this name; the empty name is that of the global namespace.
    ///
    /// # Errors
    ///
    /// When the name is longer than 253 bytes, or has a character outside of `[A-Za-z0-9_-]`.
    pub fn new(name: &str) -> Result<Self, InvalidNamespace> {
        if name.is_empty() {
            Ok(Self::global())
        } else if is_valid_name(name) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidNamespace::new(name))
        }
    }

    /// The global namespace, named [`GLOBAL_NAMESPACE`].
    pub fn global() -> Self {
        Self(GLOBAL_NAMESPACE.into())
    }

    /// Whether this is [`GLOBAL_NAMESPACE`].
    pub fn is_global(&self) -> bool {
        is_global_namespace(&self.0)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Namespace {
    type Error = InvalidNamespace;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl TryFrom<String> for Namespace {
    type Error = InvalidNamespace;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::global()
    }
}

impl AsRef<str> for Namespace {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Namespace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Namespace {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::names::deserialize(deserializer)
    }
}

/// A text that is no [`Namespace`].
///
/// Its message quotes the text escaped and cut, so it can go to a terminal or a log as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNamespace {
    quoted: String,
}

impl InvalidNamespace {
    fn new(text: &str) -> Self {
        Self { quoted: quoted(text) }
    }
}

impl fmt::Display for InvalidNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid namespace {}: expected 1 to {MAX_LEN} letters, digits, '-' or '_'",
            self.quoted
        )
    }
}

impl std::error::Error for InvalidNamespace {}

/// The text in quotes, escaped, at most 64 characters of it.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        None => format!("\"{}\"", text.escape_default()),
        Some((cut, _)) => format!("\"{}…\" ({} bytes)", text[..cut].escape_default(), text.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_empty_and_the_exact_name_are_global() {
        for (namespace, global) in [
            ("", true),
            ("global", true),
            ("GLOBAL", false),
            ("Global", false),
            (" ", false),
            ("\t", false),
            ("global ", false),
            (" global", false),
            ("global\n", false),
            ("global-", false),
            ("globa", false),
            ("glob\u{0430}l", false),
            ("default", false),
            ("team-a", false),
            ("*", false),
        ] {
            assert_eq!(is_global_namespace(namespace), global, "{namespace:?}");
        }
    }

    #[test]
    fn names_outside_the_alphabet_or_too_long_are_refused() {
        for invalid in
            [" ", "a b", "a.b", "a/b", "a/../b", "ä", "a\n", "\u{202e}a", "a:b", "%41", "team-a "]
        {
            assert!(invalid.parse::<Namespace>().is_err(), "{invalid:?}");
        }
        assert!("a".repeat(253).parse::<Namespace>().is_ok());
        assert!("a".repeat(254).parse::<Namespace>().is_err());
    }

    #[test]
    fn the_message_quotes_what_was_wrong_without_control_characters() {
        let error = "a\u{1b}[31m\u{202e}b".parse::<Namespace>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"invalid namespace "a\u{1b}[31m\u{202e}b": expected 1 to 253 letters, digits, '-' or '_'"#
        );
        let long = "é".repeat(300).parse::<Namespace>().unwrap_err().to_string();
        assert!(long.len() < 700 && long.contains("(600 bytes)"), "{long}");
    }

    proptest! {
        #[test]
        fn display_of_a_namespace_parses_back(name in "[A-Za-z0-9_-]{1,253}") {
            let namespace: Namespace = name.parse().unwrap();
            prop_assert_eq!(namespace.as_str(), name);
            prop_assert_eq!(namespace.to_string().parse::<Namespace>().unwrap(), namespace);
        }

        #[test]
        fn any_text_parses_or_is_refused_and_never_changes(text in any::<String>()) {
            let parsed = text.parse::<Namespace>();
            prop_assert_eq!(&Namespace::try_from(text.as_str()), &parsed);
            prop_assert_eq!(&Namespace::try_from(text.clone()), &parsed);
            if let Ok(namespace) = parsed {
                prop_assert!(namespace.as_str() == text || text.is_empty());
                prop_assert_eq!(namespace.is_global(), is_global_namespace(&text));
            }
        }
    }
}
