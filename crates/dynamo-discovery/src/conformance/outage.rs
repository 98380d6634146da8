//! A store that cannot be reached for a while.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::time::sleep;

use super::run::{LONG, Run, cursor_of, within};
use super::{Breach, Outage, Outcome, Sentence};
use crate::store::{Cursor, LeasedWrite, StoreError};

/// Every call fails with `Unavailable`, and none hangs.
pub async fn every_call_to_a_store_that_cannot_be_reached_says_unavailable(
    backend: &dyn Outage,
) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "").await?;
    let cursor = run.cursor().await?;
    backend.set_reachable(false).await;
    every_call_fails(&run, &cursor, Sentence::OutageIsUnavailable, |error| {
        matches!(error, StoreError::Unavailable(_))
    })
    .await
}

/// Expects that every call fails with such an error; all of them at once, since one may take long.
pub(super) async fn every_call_fails(
    run: &Run,
    cursor: &Cursor,
    sentence: Sentence,
    is_right: impl Fn(&StoreError) -> bool,
) -> Outcome {
    let key = run.key("a");
    let check = |what, answer: Result<Answer, StoreError>| match answer {
        Err(error) if is_right(&error) => Ok(()),
        other => Err(sentence.broken(format!("{what} was answered {other:?}"))),
    };
    let call = async |what, call: Call<'_>| check(what, within(sentence, what, call).await?);
    let watch = async { check("a watch", Err(run.refusal(sentence, cursor).await?)) };
    let pages = async {
        let listing = run.store.list_pages(&run.range).await?;
        Ok(told(listing.pages.try_collect::<Vec<_>>().await?))
    };
    let leases = &run.leases;
    tokio::try_join!(
        watch,
        call("a list of pages", Box::pin(pages)),
        call("a list", Box::pin(async { Ok(told(run.store.list(&run.range).await?)) })),
        call("a grant", Box::pin(async { Ok(told(leases.grant(LONG).await?)) })),
        call("a renewal", Box::pin(async { Ok(told(leases.renew(run.lease).await?)) })),
        call(
            "a put",
            Box::pin(async { Ok(told(leases.put(&key, Bytes::from("new"), run.lease).await?)) })
        ),
        call(
            "a conditional put",
            Box::pin(async {
                Ok(told(leases.put_if_leased(&key, Bytes::from("new"), run.lease).await?))
            })
        ),
        call(
            "a conditional delete",
            Box::pin(async { Ok(told(leases.delete_if_leased(&key, run.lease).await?)) })
        ),
        call(
            "several writes",
            Box::pin(async {
                let put = LeasedWrite::Put(key.clone(), Bytes::from("new"));
                Ok(told(leases.write(&[put], run.lease).await?))
            })
        ),
        call("a revoke", Box::pin(async { Ok(told(leases.revoke(run.lease).await?)) })),
    )?;
    Ok(())
}

/// An answer that should have been an error.
type Answer = String;
type Call<'a> = futures_util::future::BoxFuture<'a, Result<Answer, StoreError>>;

fn told(answer: impl fmt::Debug) -> Answer {
    format!("{answer:?}")
}

/// An open watch does not go on as if the store were there.
pub async fn a_watch_of_a_store_that_cannot_be_reached_ends(backend: &dyn Outage) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    run.put("a", "").await?;
    watching.delivers(&run.entry("a").await?).await?;
    backend.set_reachable(false).await;
    loop {
        match watching.batch_or_end(Sentence::OutageEndsWatches).await? {
            Ok(_) => {}
            Err(None | Some(StoreError::Unavailable(_))) => return Ok(()),
            Err(Some(error)) => {
                let how = format!("the watch failed with {error:?}");
                return Err(Sentence::OutageEndsWatches.broken(how));
            }
        }
    }
}

/// After an outage the store has its entries, its leases and its history.
pub async fn a_store_that_can_be_reached_again_has_forgotten_nothing(
    backend: &dyn Outage,
) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "before").await?;
    let before = run.list().await?;
    run.put("b", "after the list").await?;
    backend.set_reachable(false).await;
    backend.set_reachable(true).await;
    within(Sentence::OutageForgetsNothing, "an answer after the outage", async {
        // Both handles, since each may look for the store by itself.
        while run.leases.renew(run.lease).await.is_err()
            || run.store.list(&run.range).await.is_err()
        {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    let gone_on = async {
        let entry = run.entry("b").await?;
        if let Some(mut watching) = run.resume(&cursor_of(&before)).await? {
            watching.delivers(&entry).await?;
        }
        run.put("a", "after the outage").await
    };
    let forgot = [
        Sentence::StoreAnswers,
        Sentence::ListIsComplete,
        Sentence::WatchIsComplete,
        Sentence::AnchorIsOfItsTime,
    ];
    let gone_on = gone_on.await;
    gone_on.map_err(|breach: Breach| breach.blamed_on(Sentence::OutageForgetsNothing, &forgot))
}
