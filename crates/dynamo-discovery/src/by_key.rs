//! An instance in a set, where the key alone is its identity.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::instance::Instance;
use crate::store::Key;

/// An instance in a set, ordered, hashed and found by its key. So a set of many instances does not
/// store each key a second time.
///
/// ```
/// use std::{collections::BTreeSet, sync::Arc};
/// use dynamo_discovery::{ByKey, Instance, Key, Kind, ModelEntry};
///
/// let entry = ModelEntry::new("m", "team-a.backend.generate".parse()?, Kind::Chat.into())?;
/// let key = Key::from("models/team-a/backend/generate/1/m");
/// let instances = BTreeSet::from([ByKey(Arc::new(Instance::new(key.clone(), None, entry)))]);
/// assert!(instances.contains(&key));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ByKey(pub Arc<Instance>);

impl Borrow<Key> for ByKey {
    fn borrow(&self) -> &Key {
        self.0.key()
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}
