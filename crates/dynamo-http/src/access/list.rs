//! Keys as they are configured.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use dynamo_namespace::NamespaceScope;

use super::budget::TokenLimits;
use super::hash::KeyHash;
use crate::client_name::ClientName;
use crate::priority::Priority;
use crate::view::ModelNames;

/// The name of a key in logs and metrics: 1 to 64 characters of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(Arc<str>);

/// A text is no name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct InvalidKeyName;

impl KeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = InvalidKeyName;

    fn from_str(text: &str) -> Result<Self, InvalidKeyName> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKeyName)
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A key with its scope and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKey {
    /// The name.
    pub name: KeyName,
    /// The key or the certificate that a request must have.
    pub credential: Credential,
    /// The namespaces whose models the key shows.
    pub scope: NamespaceScope,
    /// How many proxied requests may begin in a minute: all of them at once, and then one more each
    /// time its share of the minute has passed. Default no limit.
    pub requests_per_minute: Option<NonZeroU32>,
    /// How many proxied requests may be in flight at one time. Default no limit.
    pub concurrent: Option<NonZeroU32>,
    /// How many tokens the requests may use. Default no limit.
    pub tokens: TokenLimits,
    /// The names that requests may ask for; all others are unknown to the key. `None`, which is the
    /// default, for all names.
    pub models: Option<ModelNames>,
    /// Whether a request with `x-dynamo-explain: 1` is told how its worker was chosen. Default no.
    pub explain: bool,
    /// The class of the requests. Default [`Priority::Default`].
    pub priority: Priority,
    /// Whether a request may name its class in the header `x-dynamo-priority`. Default no.
    pub priority_header: bool,
}

/// The key or the certificate that a request must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A key with one of these hashes.
    Key(KeyHashes),
    /// A certificate with this name of a client.
    Client(ClientName),
    /// Both.
    Both(KeyHashes, ClientName),
}

/// One hash or more, of keys that are as good as each other. While a key is rotated, the old one and
/// the new one are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHashes(Vec<KeyHash>);

impl KeyHashes {
    /// These hashes; none where there are none.
    pub fn new(hashes: impl IntoIterator<Item = KeyHash>) -> Option<Self> {
        let hashes: Vec<_> = hashes.into_iter().collect();
        (!hashes.is_empty()).then_some(Self(hashes))
    }

    /// The hashes.
    pub fn iter(&self) -> impl Iterator<Item = &KeyHash> {
        self.0.iter()
    }
}

impl From<KeyHash> for KeyHashes {
    fn from(hash: KeyHash) -> Self {
        Self(vec![hash])
    }
}

impl Credential {
    /// The hashes of the keys of which one is needed.
    pub fn hashes(&self) -> Option<&KeyHashes> {
        match self {
            Self::Key(hashes) | Self::Both(hashes, _) => Some(hashes),
            Self::Client(_) => None,
        }
    }

    /// The name of the client that is needed.
    pub fn client(&self) -> Option<&ClientName> {
        match self {
            Self::Client(client) | Self::Both(_, client) => Some(client),
            Self::Key(_) => None,
        }
    }
}

impl From<KeyHash> for Credential {
    fn from(hash: KeyHash) -> Self {
        Self::Key(hash.into())
    }
}

impl From<ClientName> for Credential {
    fn from(client: ClientName) -> Self {
        Self::Client(client)
    }
}

impl ApiKey {
    /// A key without limits.
    pub fn new(name: KeyName, credential: impl Into<Credential>, scope: NamespaceScope) -> Self {
        let credential = credential.into();
        Self {
            name,
            credential,
            scope,
            requests_per_minute: None,
            concurrent: None,
            tokens: TokenLimits::default(),
            models: None,
            explain: false,
            priority: Priority::default(),
            priority_header: false,
        }
    }
}

/// Keys with different names and hashes, none of which shows more than its frontend discovers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyList(Vec<ApiKey>);

/// Keys cannot be used together, or not at this frontend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeys {
    /// Two keys have the same name.
    #[error("there are two keys named {name}")]
    SameName {
        /// The name.
        name: KeyName,
    },
    /// Two keys have the same hash, or no hash and the same client.
    #[error("the keys {first} and {second} are the same key")]
    SameKey {
        /// The name of the first key.
        first: KeyName,
        /// The name of the second key.
        second: KeyName,
    },
    /// A key shows namespaces that the frontend does not discover.
    #[error("the key {name} is for {scope}, and this frontend discovers {within} only")]
    OutOfScope {
        /// The name of the key.
        name: KeyName,
        /// The namespaces that the key would show.
        scope: NamespaceScope,
        /// The namespaces that the frontend discovers.
        within: NamespaceScope,
    },
}

impl KeyList {
    /// Keys for a frontend that discovers `within`.
    ///
    /// # Errors
    ///
    /// When two keys have the same name or are the same, or when one is for more than `within`.
    pub fn new(
        keys: impl IntoIterator<Item = ApiKey>,
        within: &NamespaceScope,
    ) -> Result<Self, InvalidKeys> {
        let keys: Vec<_> = keys.into_iter().collect();
        let (mut names, mut hashes, mut clients) = (HashMap::new(), HashMap::new(), HashMap::new());
        for key in &keys {
            let name = || key.name.clone();
            if names.insert(&key.name, ()).is_some() {
                return Err(InvalidKeys::SameName { name: name() });
            }
            let same = match &key.credential {
                Credential::Key(of_key) | Credential::Both(of_key, _) => {
                    // A key may have the same hash twice.
                    let mut others =
                        of_key.iter().filter_map(|hash| hashes.insert(hash, &key.name));
                    others.find(|other| **other != key.name)
                }
                Credential::Client(client) => clients.insert(client, &key.name),
            };
            if let Some(first) = same {
                return Err(InvalidKeys::SameKey { first: first.clone(), second: name() });
            }
            if !key.scope.is_within(within) {
                let (scope, within) = (key.scope.clone(), within.clone());
                return Err(InvalidKeys::OutOfScope { name: name(), scope, within });
            }
        }
        Ok(Self(keys))
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key, so that no request is admitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &ApiKey> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, number: u8, namespace: &str) -> ApiKey {
        let hash = KeyHash::of(&format!("a-key-of-which-there-are-many-{number}")).unwrap();
        let scope = NamespaceScope::Only(namespace.parse().unwrap());
        ApiKey::new(name.parse().unwrap(), hash, scope)
    }

    #[test]
    fn keys_that_cannot_be_told_apart_are_refused() {
        let list = |keys: [ApiKey; 2]| KeyList::new(keys, &NamespaceScope::All);
        assert_eq!(list([key("a", 1, "x"), key("b", 2, "x")]).unwrap().len(), 2);
        let message = |keys| list(keys).unwrap_err().to_string();
        assert_eq!(message([key("a", 1, "x"), key("a", 2, "x")]), "there are two keys named a");
        assert_eq!(
            message([key("a", 1, "x"), key("b", 1, "y")]),
            "the keys a and b are the same key"
        );
    }

    #[test]
    fn no_key_is_for_more_than_the_frontend_discovers() {
        let within = NamespaceScope::Generations("x".parse().unwrap());
        assert!(KeyList::new([key("a", 1, "x"), key("b", 2, "x-0f3c9a1b")], &within).is_ok());
        assert_eq!(
            KeyList::new([key("a", 1, "y")], &within).unwrap_err().to_string(),
            "the key a is for y, and this frontend discovers x[-generation] only"
        );
    }

    #[test]
    fn a_name_is_fit_for_a_log_and_a_label() {
        for name in ["a", "team-a.ci_2", &"x".repeat(64)] {
            assert_eq!(name.parse::<KeyName>().unwrap().as_str(), name);
        }
        for name in ["", "a b", "a\"b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(name.parse::<KeyName>(), Err(InvalidKeyName), "{name:?}");
        }
    }
}
