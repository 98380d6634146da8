//! An instance in an ordered set, ordered by its own key: of 100,000 no key is stored twice.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use dynamo_discovery::{Instance, Key};

#[derive(Clone, Debug)]
pub(crate) struct ByKey(pub(crate) Arc<Instance>);

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
        self.cmp(other).is_eq()
    }
}

impl Eq for ByKey {}
