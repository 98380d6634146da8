//! What stands between a feed's sources and its switchboard: by default nothing.

use std::future::pending;
use std::sync::Arc;

use dynamo_discovery::{DiscoveryBatch, Instance};
use futures_util::future::{BoxFuture, FutureExt as _};

use crate::view::SwitchboardWriter;

/// Stages what sources tell, and may keep instances for a while that a source has lost or not
/// confirmed yet. It runs in the feed's task.
pub(crate) trait Keep: Send {
    /// Takes in the instances that an earlier run knew of a source.
    fn remember(&mut self, source: usize, instances: Vec<Arc<Instance>>);

    /// How many instances of a source serve that are only remembered.
    fn remembered(&self, source: usize) -> usize;

    /// Whether what a source remembers is as good as its first answer.
    fn remembers_enough(&self, source: usize) -> bool;

    /// Stages a batch of a source, but for what is kept for now.
    fn stage(&mut self, source: usize, batch: &DiscoveryBatch, writer: &mut SwitchboardWriter);

    /// Waits until there is something to [do](Self::work); may be dropped and called again.
    fn wait(&mut self) -> BoxFuture<'_, ()>;

    /// Stages what became of the instances that are kept.
    fn work(&mut self, writer: &mut SwitchboardWriter);
}

/// Stages everything at once, and remembers nothing.
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
