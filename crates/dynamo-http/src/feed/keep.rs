//! The step between a feed's sources and its switchboard, which may keep instances for a while.

use std::future::pending;
use std::sync::Arc;

use dynamo_discovery::{DiscoveryBatch, Instance};
use futures_util::future::{BoxFuture, FutureExt as _};

use crate::view::SwitchboardWriter;

/// Stages the batches of the sources. An implementation may keep instances for a while that a
/// source has lost or has not confirmed yet. All calls come from the feed's task.
pub(crate) trait Keep: Send {
    /// Gets the instances that an earlier run knew of a source.
    fn remember(&mut self, source: usize, instances: Vec<Arc<Instance>>);

    /// The number of instances of a source that serve although only an earlier run has seen them.
    fn remembered(&self, source: usize) -> usize;

    /// Whether the remembered instances of a source stand in for its first list.
    fn remembers_enough(&self, source: usize) -> bool;

    /// Stages a batch of a source, without the removals of instances that are kept.
    fn stage(&mut self, source: usize, batch: &DiscoveryBatch, writer: &mut SwitchboardWriter);

    /// Waits until [`work`](Self::work) has something to do. The future may be dropped and made
    /// again.
    fn wait(&mut self) -> BoxFuture<'_, ()>;

    /// Stages the changes of the instances that are kept.
    fn work(&mut self, writer: &mut SwitchboardWriter);
}

/// Stages each batch as it is, and keeps no instance.
pub(super) struct Nothing;

impl Keep for Nothing {
    fn remember(&mut self, _: usize, _: Vec<Arc<Instance>>) {}

    fn remembered(&self, _: usize) -> usize {
        0
    }

    fn remembers_enough(&self, _: usize) -> bool {
        false
    }

    fn stage(&mut self, _: usize, batch: &DiscoveryBatch, writer: &mut SwitchboardWriter) {
        writer.stage(&batch.updates);
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        pending().boxed()
    }

    fn work(&mut self, _: &mut SwitchboardWriter) {}
}
