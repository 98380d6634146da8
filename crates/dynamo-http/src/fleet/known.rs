//! A map of what is in use: it holds weak references, and so keeps nothing.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How many entries there may be before the dead are swept out for the first time.
const FEW: usize = 64;

/// What is in use somewhere, by key.
pub(super) struct Known<K, V>(Mutex<Map<K, V>>);

struct Map<K, V> {
    entries: HashMap<K, Weak<V>>,
    /// How many there were when the dead were last swept out.
    swept: usize,
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Map { entries: HashMap::new(), swept: 0 }))
    }
}

impl<K: Clone + Eq + Hash, V> Known<K, V> {
    /// The value of a key; it is made if it is not in use.
    pub(super) fn at(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut known = self.lock();
        if let Some(value) = known.entries.get(key).and_then(Weak::upgrade) {
            return value;
        }
        // Each time that as many came as there were.
        if known.entries.len() >= (known.swept * 2).max(FEW) {
            known.entries.retain(|_, value| value.strong_count() > 0);
            known.swept = known.entries.len();
        }
        let value = Arc::new(make());
        known.entries.insert(key.clone(), Arc::downgrade(&value));
        value
    }

    /// The value of a key, if it is in use.
    pub(super) fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.lock().entries.get(key).and_then(Weak::upgrade)
    }

    /// All values that are in use.
    pub(super) fn values(&self) -> Vec<Arc<V>> {
        self.lock().entries.values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Map<K, V>> {
        // Each change to it is one call, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shared_while_it_is_in_use_and_made_anew_afterwards() {
        let known = Known::<u32, u32>::default();
        let one = known.at(&1, || 10);
        assert!(Arc::ptr_eq(&one, &known.at(&1, || 11)));
        drop(one);
        assert_eq!(known.find(&1), None);
        assert_eq!(*known.at(&1, || 12), 12);
    }

    #[test]
    fn keys_that_come_and_go_do_not_pile_up() {
        let known = Known::<u32, u32>::default();
        let kept = known.at(&0, || 0);
        for key in 1..10_000 {
            known.at(&key, || 0);
        }
        assert!(known.lock().entries.len() <= FEW);
        assert_eq!(known.values(), [kept]);
    }
}
