//! A store that allows nothing.

use super::outage::every_call_fails;
use super::run::{Run, cursor_of};
use super::{Denial, Outcome, Sentence};
use crate::store::StoreError;

/// Every call fails with `Denied`, and changes nothing.
pub async fn every_call_that_is_denied_says_so_and_changes_nothing(
    backend: &dyn Denial,
) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "").await?;
    let before = run.list().await?;
    backend.set_allowed(false).await;
    every_call_fails(&run, &cursor_of(&before), Sentence::DenialIsTold, |error| {
        matches!(error, StoreError::Denied(_))
    })
    .await?;
    backend.set_allowed(true).await;
    let after = run.list().await?;
    Sentence::DenialChangesNothing.same(&after.entries, &before.entries)?;
    // The lease as well is as it was.
    let put = run.put("b", "").await;
    put.map_err(|breach| {
        breach.blamed_on(Sentence::DenialChangesNothing, &[Sentence::StoreAnswers])
    })
}
