//! A crate downstream that asks for no feature. It must compile whatever features others turn on.
#![deny(missing_docs)]

use async_trait::async_trait;
use dynamo_discovery::{
    Cursor, KeyRange, MemoryStore, Snapshot, StoreError, WatchItem, WatchStore,
};
use dynamo_http::{ErrorShape, Switchboard, SwitchboardWriter};
use dynamo_namespace::{EndpointId, InvalidEndpointId, NamespaceScope};
use futures_util::stream::BoxStream;

/// A store of its own: no feature may add a method to the trait that it would have to write.
#[derive(Debug)]
pub struct Store(pub MemoryStore);

#[async_trait]
impl WatchStore for Store {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        self.0.list(range).await
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        self.0.watch(range, after).await
    }
}

/// What every type that it keeps must be: no feature may take a trait away.
pub trait Kept: Clone + std::fmt::Debug + Send + Sync + 'static {}
impl Kept for EndpointId {}
impl Kept for ErrorShape {}
impl Kept for MemoryStore {}
impl Kept for NamespaceScope {}
impl Kept for Switchboard {}

/// Views of all namespaces.
pub fn views() -> (Switchboard, SwitchboardWriter) {
    Switchboard::new([NamespaceScope::All])
}

/// An id, and the error of its crate.
pub fn endpoint(text: &str) -> Result<EndpointId, InvalidEndpointId> {
    text.parse()
}
