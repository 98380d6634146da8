//! Asking for a proof that a server is the one that registered.

use futures_util::future::{BoxFuture, FutureExt as _};

use super::witness::Witness;
use crate::fleet::{Finding, Fleet};

/// Asks witnesses.
#[cfg_attr(test, mockall::automock)]
pub(super) trait Ask: Send + Sync + 'static {
    /// Asks one witness.
    fn ask(&self, witness: &Witness) -> BoxFuture<'static, Finding>;
}

/// Asks as for entries that the store has, so an answer counts for these as well.
impl Ask for Fleet {
    fn ask(&self, witness: &Witness) -> BoxFuture<'static, Finding> {
        let (fleet, witness) = (self.clone(), witness.clone());
        async move {
            match witness {
                Witness::Control(claim) => fleet.ask(&fleet.claimed(&claim)).await,
                Witness::Listed(namespace, url, model) => {
                    fleet.ask_for_model(&namespace, &url, &model).await
                }
            }
        }
        .boxed()
    }
}
