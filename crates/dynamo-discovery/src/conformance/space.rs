//! A store without space.

use bytes::Bytes;

use super::run::{LONG, Run, done, within};
use super::{Breach, Fills, Outcome, Sentence};
use crate::store::{LeasedWrite, StoreError};

/// Whatever would take space fails with `Full` and changes nothing, and all else goes on. A conditional
/// put may work, since it only replaces a value: etcd lets one pass.
pub async fn a_store_without_space_takes_no_puts_and_does_all_else(backend: &dyn Fills) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "").await?;
    run.put("b", "").await?;
    let leaving = run.grant(LONG).await?.id;
    run.put_under("c", "", leaving).await?;
    let before = run.list().await?;
    let mut watching = run.watch_from_now().await?;
    backend.set_full(true).await;
    what_takes_space_fails(&run).await?;
    let goes_on = async {
        let now = run.list().await?;
        Sentence::FullChangesNothing.same(&now.entries, &before.entries)?;
        let lives = done("a renewal", run.leases.renew(run.lease)).await?.is_some();
        Sentence::FullStoreGoesOn.holds(lives, || "a lease that lives was not renewed".into())?;
        run.delete("b").await?;
        watching.delivers_deletion(&run.key("b")).await?;
        run.revoke(leaving).await?;
        watching.delivers_deletion(&run.key("c")).await
    };
    let rest_on_it =
        [Sentence::StoreAnswers, Sentence::ConditionalDeleteObeys, Sentence::WatchIsComplete];
    let goes_on = goes_on.await;
    goes_on.map_err(|breach: Breach| breach.blamed_on(Sentence::FullStoreGoesOn, &rest_on_it))?;
    backend.set_full(false).await;
    let put = run.put("d", "").await;
    put.map_err(|breach| breach.blamed_on(Sentence::FullChangesNothing, &[Sentence::StoreAnswers]))
}

async fn what_takes_space_fails(run: &Run) -> Outcome {
    let (key, new) = (run.key("a"), || Bytes::from("new"));
    let (leases, lease) = (&run.leases, run.lease);
    let fails = async |what, call: Call<'_>| {
        let answer = within(Sentence::FullIsTold, what, call).await?;
        Sentence::FullIsTold.holds(matches!(answer, Err(StoreError::Full(_))), || {
            format!("{what} was answered {answer:?}")
        })
    };
    let put = LeasedWrite::Put(key.clone(), new());
    let writes = [LeasedWrite::DeleteIfLeased(run.key("b")), put];
    fails("a grant", Box::pin(async { leases.grant(LONG).await.map(drop) })).await?;
    fails("a put", Box::pin(leases.put(&key, new(), lease))).await?;
    let several = async { leases.write(&writes, lease).await.map(drop) };
    fails("several writes", Box::pin(several)).await
}

type Call<'a> = futures_util::future::BoxFuture<'a, Result<(), StoreError>>;
