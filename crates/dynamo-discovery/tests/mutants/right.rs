//! Stores that keep the contract pass under the same harness.

use async_trait::async_trait;
use dynamo_discovery::{Cursor, KeyRange, MemoryStore, StoreError, WatchStore as _};

use crate::harness::{Broken, Items, Mutation, Result, on_one_thread, on_several_threads};
use crate::writes::FindsNoStrays;

/// Nothing is wrong.
#[derive(Clone)]
struct Unbroken;

impl Mutation for Unbroken {}

/// No cursor but the present is good for anything, and the store says so or does not.
#[derive(Clone)]
struct WithoutHistory {
    is_told: bool,
}

#[async_trait]
impl Mutation for WithoutHistory {
    fn keeps_history(&self) -> bool {
        !self.is_told
    }

    async fn watch(&self, store: &MemoryStore, range: &KeyRange, after: &Cursor) -> Result<Items> {
        if after.revision < store.revision() {
            return Err(StoreError::Compacted);
        }
        store.watch(range, after).await
    }
}

#[test]
fn a_store_that_keeps_the_contract_breaks_no_sentence() {
    assert_eq!(on_one_thread(|| Unbroken), Broken::new());
    assert_eq!(on_several_threads(|| Unbroken), Broken::new());
}

#[test]
fn a_store_that_finds_no_strays_passes() {
    assert_eq!(on_one_thread(|| FindsNoStrays), Broken::new());
    assert_eq!(on_several_threads(|| FindsNoStrays), Broken::new());
}

#[test]
fn a_store_without_a_history_passes_if_it_says_so() {
    assert_eq!(on_one_thread(|| WithoutHistory { is_told: true }), Broken::new());
    assert_eq!(on_several_threads(|| WithoutHistory { is_told: true }), Broken::new());
    assert_ne!(on_one_thread(|| WithoutHistory { is_told: false }), Broken::new());
}
