//! How a control port is configured.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use dynamo_discovery::ControlUrl;
use dynamo_http::{KeyHash, WeakKey};

/// What the user said about the control port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlConfig {
    /// Address to listen on; none for the host of the advertised URL.
    pub(crate) host: Option<String>,
    /// Port to listen on; 0 for a free one.
    pub(crate) port: u16,
    /// Where frontends reach it; none for the address that it listens on.
    pub(crate) advertise_url: Option<ControlUrl>,
    /// The file of the key of those who may drain, and the key in it; without it nobody may.
    pub(crate) key: Option<(PathBuf, ControlKey)>,
}

/// The key of those who may drain, which may change while we run. A clone is the same key.
#[derive(Clone, Debug)]
pub(crate) struct ControlKey(Arc<RwLock<KeyHash>>);

impl ControlKey {
    /// # Errors
    ///
    /// When the text is too short for a key.
    pub(crate) fn of(key: &str) -> Result<Self, WeakKey> {
        Ok(Self(Arc::new(RwLock::new(KeyHash::of(key)?))))
    }

    /// Makes this the key from now on.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of); nothing changes then.
    pub(crate) fn set(&self, key: &str) -> Result<(), WeakKey> {
        let hash = KeyHash::of(key)?;
        // Each change is one assignment, so a panic elsewhere leaves it whole.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hash;
        Ok(())
    }

    /// The hash of the key as it is now.
    pub(super) fn hash(&self) -> KeyHash {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether both are the same key now.
impl PartialEq for ControlKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for ControlKey {}
