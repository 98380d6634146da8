//! A list of several pages, as those who follow a watcher see it.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::sync::Arc;

use async_trait::async_trait;
use dynamo_discovery::{
    Cursor, DiscoveryBatch, DiscoveryEvent, KeyRange, Kind, Listing, MemoryStore, ModelEntry,
    ModelUpdate, ModelWatcher, Page, Snapshot, StoreError, WatchItem, WatchStore,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};

/// A store that lists two entries at a time.
struct Paged(MemoryStore);

#[async_trait]
impl WatchStore for Paged {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        self.0.list(range).await
    }

    async fn list_pages(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        let Snapshot { revision, entries } = self.0.list(range).await?;
        let mut pages: Vec<_> = entries
            .chunks(2)
            .map(|entries| Page { entries: entries.to_vec(), more: true })
            .collect();
        pages.last_mut().unwrap().more = false;
        Ok(Listing { revision, pages: stream::iter(pages.into_iter().map(Ok)).boxed() })
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        self.0.watch(range, after).await
    }
}

fn put(store: &MemoryStore, namespace: &str, number: u8) {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new("m", endpoint, Kind::Chat.into()).unwrap();
    let key = format!("models/{namespace}/backend/generate/{number:x}/m");
    store.put_unleased(key, entry.to_json());
}

/// What a batch did to which instance.
fn changes(batch: &DiscoveryBatch) -> Vec<String> {
    let name = |update: &ModelUpdate| match update {
        ModelUpdate::Added(new) => format!("+{}", new.id().unwrap()),
        ModelUpdate::Changed { new, .. } => format!("~{}", new.id().unwrap()),
        ModelUpdate::Removed(old, _) => format!("-{}", old.id().unwrap()),
    };
    batch.updates.iter().map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_first_list_is_told_page_by_page_and_a_later_one_at_once() {
    let store = MemoryStore::new();
    for number in 1..=4 {
        put(&store, "team-a", number);
    }
    put(&store, "team-b", 9);
    let paged = Arc::new(Paged(store.clone()));
    let mut watcher = ModelWatcher::watch(paged, Some("team-a")).unwrap();
    for expected in [["+1", "+2"], ["+3", "+4"]] {
        let part = watcher.next_batch().await;
        assert_eq!((changes(&part), part.more), (expected.map(String::from).to_vec(), true));
        assert_eq!((part.resync, part.revision.0), (false, 0), "that is not all");
    }
    let last = watcher.next_batch().await;
    assert_eq!((last.updates.len(), last.out_of_scope), (0, 1));
    assert!(last.resync && !last.more && last.revision == store.revision());

    // The history is lost together with what changed in it.
    assert_eq!(watcher.next().await, DiscoveryEvent::Connected);
    store.set_available(false);
    store.disconnect();
    store.delete("models/team-a/backend/generate/1/m");
    put(&store, "team-a", 5);
    store.compact();
    store.set_available(true);
    let again = watcher.next_batch().await;
    assert_eq!(changes(&again), ["+5", "-1"]);
    assert!(again.resync && !again.more && again.revision == store.revision());
    assert_eq!(watcher.instances().count(), 4);
}
