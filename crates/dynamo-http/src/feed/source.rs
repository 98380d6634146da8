//! A place where models are discovered.

use std::borrow::Cow;
use std::sync::Arc;

use dynamo_discovery::{DiscoveryEvent, Instance};
use futures_util::stream::BoxStream;

/// A place where models are discovered.
#[derive(derive_more::Debug)]
#[debug("Source({name})")]
pub struct Source {
    pub(super) name: Cow<'static, str>,
    pub(super) events: BoxStream<'static, DiscoveryEvent>,
    pub(super) remembered: Vec<Arc<Instance>>,
}

impl Source {
    /// A source, such as the stream of a [`ModelWatcher`](dynamo_discovery::ModelWatcher).
    ///
    /// Two sources must not use the same keys. The name appears in metrics.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        events: BoxStream<'static, DiscoveryEvent>,
    ) -> Self {
        Self { name: name.into(), events, remembered: Vec::new() }
    }

    /// The same source, with the instances that an earlier run knew, such as those of a
    /// [`SavedCatalog`](dynamo_discovery::SavedCatalog).
    ///
    /// Until the source delivers its first list, each of these instances serves as soon as its
    /// worker has proven to be there. When every worker has been asked and an instance serves, the
    /// feed counts the source as one that has delivered its first list. The first list replaces all
    /// these instances at once. A feed without `with_hold` forgets these instances.
    #[must_use]
    pub fn with_remembered(self, remembered: Vec<Arc<Instance>>) -> Self {
        Self { remembered, ..self }
    }
}
