//! Without the proxy no server can be asked whether it answers, so nothing is held.

use dynamo_discovery::DiscoveryBatch;

use crate::switchboard::SwitchboardWriter;

/// There is none.
pub(crate) enum Keeper {}

impl Keeper {
    pub(crate) fn stage(&mut self, _: &DiscoveryBatch, _: &mut SwitchboardWriter) {
        match *self {}
    }

    pub(crate) async fn wait(&mut self) {
        match *self {}
    }

    pub(crate) fn work(&mut self, _: &mut SwitchboardWriter) {
        match *self {}
    }
}
