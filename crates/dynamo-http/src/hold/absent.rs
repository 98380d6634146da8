//! Without the proxy no server can be asked whether it answers, so nothing is held.

use std::sync::Arc;

use dynamo_discovery::{DiscoveryBatch, Instance};

use crate::switchboard::SwitchboardWriter;

/// There is none.
pub(crate) enum Keeper {}

impl Keeper {
    pub(crate) fn remember(&mut self, _: usize, _: Vec<Arc<Instance>>, _: &mut SwitchboardWriter) {
        match *self {}
    }

    pub(crate) fn remembered(&self, _: usize) -> usize {
        match *self {}
    }

    pub(crate) fn remembers_enough(&self, _: usize) -> bool {
        match *self {}
    }

    pub(crate) fn stage(&mut self, _: usize, _: &DiscoveryBatch, _: &mut SwitchboardWriter) {
        match *self {}
    }

    pub(crate) async fn wait(&mut self) {
        match *self {}
    }

    pub(crate) fn work(&mut self, _: &mut SwitchboardWriter) {
        match *self {}
    }
}
