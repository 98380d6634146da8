//! The key of an entry. It tells the namespace before the value is read.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use dynamo_namespace::{EndpointId, Namespace, NamespaceScope};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::random;

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The number of a worker process: random, chosen once when the process starts.
///
/// The number is *not* that of the lease: after a lost lease, the worker writes the same keys with the
/// same values again.
///
/// ```
/// use dynamo_discovery::InstanceId;
///
/// let id = InstanceId(0x1f);
/// assert_eq!(id.to_string(), "1f");
/// assert_eq!(format!("{id:?}"), "InstanceId(0x1f)");
/// assert_eq!("1f".parse(), Ok(id));
/// ```
#[derive(Clone, Copy, derive_more::Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[debug("InstanceId({_0:#x})")]
pub struct InstanceId(pub u64);

impl InstanceId {
    /// A new random one.
    pub fn random() -> Self {
        Self(random::number())
    }
}

/// Small hexadecimal digits without leading zeros, as in keys.
impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for InstanceId {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A number has one spelling. With two, one instance could have two keys.
        let digits = text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !digits || (text.len() > 1 && text.starts_with('0')) {
            return Err(InvalidKey::Instance);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidKey::Instance)
    }
}

/// A key below the root, as its parts.
///
/// ```
/// use dynamo_discovery::{InstanceId, ModelKey};
///
/// let key = ModelKey::Native {
///     endpoint: "team-a.backend.generate".parse()?,
///     instance: InstanceId(0x1f),
///     model: "Qwen/Qwen3-0.6B".into(),
/// };
/// assert_eq!(key.to_string(), "team-a/backend/generate/1f/Qwen%2FQwen3-0.6B");
/// assert_eq!(key.to_string().parse::<ModelKey>()?, key);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelKey {
    /// `{namespace}/{component}/{endpoint}/{instance:hex}/{model, percent-encoded}`: the layout of this
    /// crate.
    Native {
        /// Where the worker serves.
        endpoint: EndpointId,
        /// The worker process.
        instance: InstanceId,
        /// The model's name.
        model: String,
    },
    /// `{anything}`, without a slash: Dynamo up to 0.5.1 puts a UUID, and a script may put any text.
    Flat(String),
}

/// The key without the root.
impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native { endpoint, instance, model } => write!(
                f,
                "{}/{}/{}/{instance}/{}",
                endpoint.namespace(),
                endpoint.component(),
                endpoint.name(),
                utf8_percent_encode(model, RESERVED)
            ),
            Self::Flat(name) => f.write_str(name),
        }
    }
}

impl FromStr for ModelKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match KeyParts::parse(text, None)? {
            KeyParts::Native { endpoint, instance, model } => {
                Self::Native { endpoint, instance, model: model.into_owned() }
            }
            KeyParts::Flat => Self::Flat(text.to_owned()),
        })
    }
}

/// The parts of a key, borrowed where that is possible: a list has very many keys.
pub(crate) enum KeyParts<'a> {
    Native { endpoint: EndpointId, instance: InstanceId, model: Cow<'a, str> },
    Flat,
}

impl<'a> KeyParts<'a> {
    /// Parses a key. Where its endpoint equals `like`, it is a clone of `like` and shares its memory.
    pub(crate) fn parse(text: &'a str, like: Option<&EndpointId>) -> Result<Self, InvalidKey> {
        let mut parts = text.splitn(6, '/');
        let segments: [Option<&str>; 6] = std::array::from_fn(|_| parts.next());
        match segments {
            [Some(name), None, ..] if !name.is_empty() => Ok(Self::Flat),
            [Some(namespace), Some(component), Some(name), Some(instance), Some(model), None] => {
                // In a value the empty namespace is `global`. In a key it would be a second spelling
                // of `global`.
                if namespace.is_empty() {
                    return Err(InvalidKey::Endpoint);
                }
                let endpoint =
                    endpoint([namespace, component, name], like).ok_or(InvalidKey::Endpoint)?;
                let instance = instance.parse()?;
                let decoded =
                    percent_decode_str(model).decode_utf8().map_err(|_| InvalidKey::Encoding)?;
                let left = utf8_percent_encode(&decoded, RESERVED)
                    .try_fold(model, |left, chunk| left.strip_prefix(chunk));
                if model.is_empty() || left != Some("") {
                    return Err(InvalidKey::Encoding);
                }
                Ok(Self::Native { endpoint, instance, model: decoded })
            }
            _ => Err(InvalidKey::Segments),
        }
    }
}

/// The endpoint of these parts, if they are valid: a clone of `like` if that is equal.
///
/// Many entries share few endpoints, and a new endpoint takes four allocations.
pub(crate) fn endpoint(parts: [&str; 3], like: Option<&EndpointId>) -> Option<EndpointId> {
    let [namespace, component, name] = parts;
    let equal =
        |like: &&EndpointId| parts == [like.namespace().as_str(), like.component(), like.name()];
    match like.filter(equal) {
        Some(like) => Some(like.clone()),
        None => EndpointId::new(namespace.parse().ok()?, component, name).ok(),
    }
}

/// Why a key below the root is no key of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The key is not UTF-8.
    #[error("the key is not UTF-8")]
    NotUtf8,
    /// The key has neither one nor five segments after the root.
    #[error("the key has neither one nor five segments after the root")]
    Segments,
    /// The namespace, component or endpoint is invalid.
    #[error("the namespace, component or endpoint in the key is invalid")]
    Endpoint,
    /// The instance is no hexadecimal number in its one spelling.
    #[error("the instance in the key is not a hexadecimal number in small letters")]
    Instance,
    /// The model is not percent-encoded in the one canonical way.
    #[error("the model in the key is not percent-encoded canonically")]
    Encoding,
    /// The key and the value name different endpoints or models.
    #[error("the key names another endpoint or model than the value")]
    Disagrees,
}

/// Whether a key can belong to the scope, judged by its first segment alone.
///
/// A flat key does not show its namespace, so it can belong to every scope.
pub(crate) fn may_belong(scope: &NamespaceScope, below_root: &[u8]) -> bool {
    let Some(slash) = below_root.iter().position(|byte| *byte == b'/') else { return true };
    let namespace = std::str::from_utf8(&below_root[..slash]).ok().filter(|name| !name.is_empty());
    match (namespace.and_then(|name| name.parse::<Namespace>().ok()), scope) {
        (Some(namespace), scope) => scope.contains(&namespace),
        // The first segment is no namespace. Only the scope of all namespaces sees the malformed key.
        (None, scope) => *scope == NamespaceScope::All,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ModelKey, InvalidKey> {
        text.parse()
    }

    #[test]
    fn an_instance_does_not_depend_on_the_seed_of_fastrand_which_is_the_time() {
        let seeded = || {
            fastrand::seed(1);
            InstanceId::random()
        };
        assert_ne!(seeded(), seeded());
    }

    #[test]
    fn keys_have_one_or_five_segments() {
        assert_eq!(
            parse("0b68fe75-8fdc-442f-a23a-99df3cdf0087"),
            Ok(ModelKey::Flat("0b68fe75-8fdc-442f-a23a-99df3cdf0087".into()))
        );
        assert!(matches!(parse("a/backend/generate/1/m"), Ok(ModelKey::Native { .. })));
        for text in ["", "a/b", "a/b/c", "a/b/c/1", "a/b/c/1/m/n", "a/b/c/1/m/", "/", "a/"] {
            assert_eq!(parse(text), Err(InvalidKey::Segments), "{text}");
        }
    }

    #[test]
    fn every_place_has_one_spelling() {
        for (text, expected) in [
            ("/b/c/1/m", InvalidKey::Endpoint),
            ("a b/b/c/1/m", InvalidKey::Endpoint),
            ("../b/c/1/m", InvalidKey::Endpoint),
            ("a//c/1/m", InvalidKey::Endpoint),
            ("a/b/c//m", InvalidKey::Instance),
            ("a/b/c/01/m", InvalidKey::Instance),
            ("a/b/c/F/m", InvalidKey::Instance),
            ("a/b/c/+1/m", InvalidKey::Instance),
            ("a/b/c/10000000000000000/m", InvalidKey::Instance),
            ("a/b/c/1/", InvalidKey::Encoding),
            ("a/b/c/1/%2f", InvalidKey::Encoding),
            ("a/b/c/1/%6D", InvalidKey::Encoding),
            ("a/b/c/1/a:b", InvalidKey::Encoding),
            ("a/b/c/1/%", InvalidKey::Encoding),
            ("a/b/c/1/%FF", InvalidKey::Encoding),
            ("a/b/c/1/é", InvalidKey::Encoding),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
        let Ok(ModelKey::Native { instance, .. }) = parse("a/b/c/ffffffffffffffff/m") else {
            panic!("the largest instance is valid")
        };
        assert_eq!(instance, InstanceId(u64::MAX));
    }

    proptest! {
        #[test]
        fn display_of_a_native_key_parses_back(
            namespace in "[A-Za-z0-9_-]{1,20}",
            instance in any::<u64>(),
            model in ".{1,40}",
        ) {
            let endpoint = EndpointId::new(namespace.parse().unwrap(), "backend", "generate").unwrap();
            let key = ModelKey::Native { endpoint, instance: InstanceId(instance), model };
            prop_assert_eq!(key.to_string().parse::<ModelKey>().unwrap(), key);
        }

        #[test]
        fn a_key_that_parses_displays_as_it_was(text in "[ab/%2Ff1-]{0,16}") {
            if let Ok(key) = text.parse::<ModelKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
