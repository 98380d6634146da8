//! Asking for a proof that a server is the one that registered.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};

use super::witness::Witness;
use crate::fleet::{Finding, Fleet};

/// How long a control port may take to answer. It never waits for the engine.
const CONTROL_PATIENCE: Duration = Duration::from_secs(1);
/// How long an engine may take to list its models: longer than the habit of any engine.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);

/// Asks witnesses.
#[cfg_attr(test, mockall::automock)]
pub(super) trait Ask: Send + Sync + 'static {
    /// Asks one witness. Only [`Finding::Answers`] is a proof.
    fn ask(&self, witness: &Witness) -> BoxFuture<'static, Finding>;
}

/// Asks on a connection of its own, as probes do.
impl Ask for Fleet {
    fn ask(&self, witness: &Witness) -> BoxFuture<'static, Finding> {
        let (fleet, witness) = (self.clone(), witness.clone());
        async move {
            match &witness {
                Witness::Control(namespace, control, id) => {
                    fleet.ask_control(namespace, control, *id, CONTROL_PATIENCE).await
                }
                Witness::Listed(namespace, url, model) => {
                    fleet.ask_for_model(namespace, url, model, ENGINE_PATIENCE).await
                }
            }
        }
        .boxed()
    }
}
