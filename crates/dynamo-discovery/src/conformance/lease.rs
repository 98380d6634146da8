//! Leases: granted, renewed, ended, and the keys under them.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::run::{LONG, Run, SHORT, SLACK, answer, done};
use super::watch::deletions;
use super::{Backend, Breach, Outcome, Sentence};
use crate::store::{Change, Lease, LeaseId, StoreError};

/// How much later than its term a lease may end.
const LATE: Duration = Duration::from_secs(5);

/// The longest term of a lease whose end a case waits for. On a machine that is too slow for the
/// shortest one, the case tries longer ones.
const LONGEST: Duration = Duration::from_secs(32);

/// A lease never has the name of another one, also not of one that has ended.
pub async fn each_grant_is_a_lease_of_its_own(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let first = run.grant(LONG).await?.id;
    let second = done("a grant", run.other_leases.grant(LONG)).await?.id;
    run.revoke(first).await?;
    let third = run.grant(LONG).await?.id;
    let mut leases = vec![run.lease, first, second, third];
    leases.sort_unstable();
    leases.dedup();
    Sentence::GrantIsNew
        .holds(leases.len() == 4, || format!("four grants gave the leases {leases:?}"))
}

/// A renewal tells how long the lease lives now.
pub async fn a_live_lease_is_renewed(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    for ttl in [SHORT, LONG] {
        let lease = run.grant(ttl).await?;
        Sentence::GrantIsEnough
            .holds(lease.ttl >= ttl, || format!("asked for {ttl:?}, granted {lease:?}"))?;
        if ttl == LONG {
            let renewed = done("a renewal", run.leases.renew(lease.id)).await?;
            Sentence::RenewalTellsTerm.same(&renewed, &Some(lease.ttl))?;
        }
    }
    Ok(())
}

/// A renewal of what is gone, or never was, says so.
pub async fn a_lease_that_is_gone_is_not_renewed(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let lease = run.grant(LONG).await?;
    run.revoke(lease.id).await?;
    for id in [lease.id, LeaseId(0x7abc_def0_1234)] {
        for handle in [&run.leases, &run.other_leases] {
            let renewed = done("a renewal", handle.renew(id)).await?;
            Sentence::RenewalTellsEnd.same(&renewed, &None)?;
        }
    }
    Ok(())
}

/// A put needs a lease that lives.
pub async fn a_put_under_a_lease_that_is_gone_is_refused(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let lease = run.grant(LONG).await?.id;
    run.put_under("before", "", lease).await?;
    run.revoke(lease).await?;
    for lease in [lease, LeaseId(0x7abc_def0_1234)] {
        let put = run.try_put("a", lease).await?;
        Sentence::PutNeedsLease
            .holds(matches!(put, Err(StoreError::LeaseGone)), || format!("answered {put:?}"))?;
        for name in ["a", "before"] {
            let put = run.put_if_leased(name, "", lease).await?;
            Sentence::ConditionalPutObeys.same(&put, &false)?;
            let deleted = run.delete_under(name, lease).await?;
            Sentence::ConditionalDeleteObeys.same(&deleted, &false)?;
        }
    }
    Sentence::PutNeedsLease.same(&run.found("a").await?, &None)
}

/// The keys of a lease that nobody renews are deleted, neither early nor late.
pub async fn an_expired_lease_takes_its_keys_along(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let Granted { lease, asked, answered } = granted_with(&run, &["a", "b", "moved"]).await?;
    run.put("moved", "").await?;
    let mut watching = run.watch_from_now().await?;
    let ends = answered + lease.ttl + LATE + SLACK;
    let changes = match timeout_at(ends, deletions(&mut watching, 2)).await {
        Ok(changes) => changes?,
        Err(_) => {
            let left = run.found("a").await?.is_some();
            let sentence = if left { Sentence::LeaseEndsInTime } else { Sentence::WatchIsComplete };
            let how = format!("no deletion {:?} after the grant of {lease:?}", asked.elapsed());
            return Err(sentence.broken(how));
        }
    };
    let lived = asked.elapsed();
    Sentence::LeaseLivesItsTerm.holds(lived * 10 >= lease.ttl * 9, || {
        format!("the keys of {lease:?} were deleted after {lived:?}")
    })?;
    let moved = Change::Delete(run.key("moved"));
    Sentence::LeaseEndSparesOthers
        .holds(!changes.contains(&moved), || format!("deleted: {changes:?}"))?;
    let expected = ["a", "b"].map(|name| Change::Delete(run.key(name)));
    Sentence::WatchTellsChanges.same(&changes, &expected.to_vec())?;
    Sentence::LeaseEndsInTime.same(&run.found("b").await?, &None)?;
    run.entry("moved").await?;
    let renewed = done("a renewal", run.leases.renew(lease.id)).await?;
    Sentence::RenewalTellsEnd.same(&renewed, &None)
}

struct Granted {
    lease: Lease,
    /// Before the grant was asked for, and after it was answered.
    asked: Instant,
    answered: Instant,
}

/// A lease with these keys of which less than half is over: a short one, or a longer one where that
/// is not to be had.
async fn granted_with(run: &Run, names: &[&str]) -> Result<Granted, Breach> {
    let mut ttl = SHORT;
    loop {
        let asked = Instant::now();
        let lease = run.grant(ttl).await?;
        let answered = Instant::now();
        let mut put = Ok(());
        for name in names {
            put = put.and(run.try_put(name, lease.id).await?);
        }
        let is_young = asked.elapsed() < lease.ttl / 2;
        match put {
            Ok(()) if is_young || ttl >= LONGEST => return Ok(Granted { lease, asked, answered }),
            Err(error) if is_young || ttl >= LONGEST => {
                let how = format!("{error:?} {:?} after the grant of {lease:?}", asked.elapsed());
                return Err(Sentence::LeaseLivesItsTerm.broken(how));
            }
            _ => run.revoke(lease.id).await?,
        }
        ttl *= 2;
    }
}

/// A lease that is renewed lives on.
pub async fn a_renewed_lease_outlives_its_first_term(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut ttl = SHORT;
    while !outlives_its_first_term(&run, ttl).await? {
        // We were too slow to renew it.
        ttl *= 2;
    }
    Ok(())
}

async fn outlives_its_first_term(run: &Run, ttl: Duration) -> Result<bool, Breach> {
    let Lease { id, ttl } = run.grant(ttl).await?;
    let granted = Instant::now();
    let mut renewed = granted;
    let mut lives = run.try_put("a", id).await?.is_ok();
    while lives && granted.elapsed() < ttl * 5 / 2 {
        sleep(ttl / 4).await;
        let asked = Instant::now();
        let renewal = done("a renewal", run.leases.renew(id)).await?;
        if let Some(renewal) = renewal {
            Sentence::RenewalTellsTerm.same(&renewal, &ttl)?;
        }
        lives = renewal.is_some() && run.found("a").await?.is_some();
        if lives {
            renewed = asked;
        }
    }
    let is_ours = renewed.elapsed() >= ttl && ttl < LONGEST;
    Sentence::LeaseLivesItsTerm.holds(lives || is_ours, || {
        format!("it was renewed {:?} ago, its term is {ttl:?}, and it has ended", renewed.elapsed())
    })?;
    Ok(lives)
}

/// When a revoke is answered, the keys of the lease are gone for every handle.
pub async fn a_revoked_lease_takes_its_keys_along(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let lease = run.grant(LONG).await?.id;
    for name in ["a", "b"] {
        run.put_under(name, "", lease).await?;
    }
    let mut watching = run.watch_from_now().await?;
    run.revoke(lease).await?;
    for reader in [&run, &run.on_other_handles()] {
        let left = reader.list().await?.entries;
        Sentence::RevokeDeletesKeys.same(&left, &Vec::new())?;
    }
    let expected = ["a", "b"].map(|name| Change::Delete(run.key(name)));
    let deleted = deletions(&mut watching, 2).await?;
    Sentence::WatchTellsChanges.same(&deleted, &expected.to_vec())
}

/// Revoking what is gone is no error.
pub async fn a_lease_may_be_revoked_twice(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let lease = run.grant(LONG).await?.id;
    for id in [lease, lease, LeaseId(0x7abc_def0_1234)] {
        let revoked = answer("a revoke", run.leases.revoke(id)).await?;
        Sentence::RevokeMayRepeat.holds(revoked.is_ok(), || format!("answered {revoked:?}"))?;
    }
    Ok(())
}

/// A key belongs to the lease under which it was last put.
pub async fn a_key_put_under_another_lease_survives_the_end_of_the_first(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    let first = run.grant(LONG).await?.id;
    run.put_under("a", "first", first).await?;
    run.put("a", "second").await?;
    run.revoke(first).await?;
    let left = run.found("a").await?.map(|entry| entry.value);
    Sentence::LeaseEndSparesOthers.same(&left, &Some(Bytes::from("second")))
}
