//! Several writes in one call, and keys that are no longer under their lease.

use bytes::Bytes;

use super::run::{LONG, Run, answer, done, keys};
use super::watch::by_key;
use super::{Backend, Breach, Outcome, Sentence};
use crate::store::{Entry, Key, LeaseId, LeasedWrite, StoreError};

/// More writes than a store is expected to do in one part.
const MANY: usize = 300;

/// Several writes do what single ones would do, each with its own answer.
pub async fn several_writes_do_what_single_ones_would(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let sentence = Sentence::WritesAreSingleOnes;
    let mut watching = run.watch_from_now().await?;
    let first = run.grant(LONG).await?.id;
    let write = async |writes: &[LeasedWrite]| {
        done("several writes", run.leases.write(writes, first)).await
    };
    run.put_under("ours", "1", first).await?;
    run.put_under("withdrawn", "1", first).await?;
    run.put("theirs", "1").await?;
    run.put("theirs too", "1").await?;
    let mixed = [
        put(&run, "new"),
        put_if_leased(&run, "ours"),
        put_if_leased(&run, "theirs"),
        put_if_leased(&run, "absent"),
        delete_if_leased(&run, "withdrawn"),
        delete_if_leased(&run, "theirs too"),
        delete_if_leased(&run, "absent too"),
    ];
    let answers = write(&mixed).await?;
    sentence.same(&answers, &vec![true, true, false, false, true, false, false])?;
    let found = by_key(run.list().await?.entries);
    let found: Vec<_> = found.values().map(|entry| (&entry.key, &entry.value[..])).collect();
    let left = [("new", "2"), ("ours", "2"), ("theirs", "1"), ("theirs too", "1")];
    let left = left.map(|(name, value)| (run.key(name), value.as_bytes()));
    sentence.same(&found, &left.iter().map(|(key, value)| (key, *value)).collect())?;
    sentence.same(&write(&[]).await?, &Vec::new())?;

    let many: Vec<_> = (0..MANY).map(|number| format!("many {number:03}")).collect();
    let writes: Vec<_> = many.iter().map(|name| put(&run, name)).collect();
    sentence.same(&write(&writes).await?, &vec![true; MANY])?;
    let names: Vec<_> = many.iter().map(|name| run.key(name)).collect();
    let listed = by_key(run.list().await?.entries);
    let missing = names.iter().find(|key| !listed.contains_key(key));
    sentence.same(&missing, &None)?;
    // The changes before: four puts, two by the writes, and a deletion.
    for _ in 0..7 {
        watching.change().await?;
    }
    let mut delivered = Vec::new();
    for _ in 0..MANY {
        delivered.push(watching.put().await?);
    }
    Sentence::WatchIsComplete.same(&keys(&delivered), &names.iter().collect())?;

    // All that was put ends with the lease.
    run.revoke(first).await?;
    let left = run.list().await?.entries;
    sentence.same(&keys(&left), &vec![&run.key("theirs"), &run.key("theirs too")])
}

/// Several writes under a lease that is gone are refused if one of them needs the lease.
pub async fn several_writes_under_a_lease_that_is_gone_write_nothing(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    let sentence = Sentence::WritesNeedLease;
    let gone = run.grant(LONG).await?.id;
    run.revoke(gone).await?;
    run.put("theirs", "1").await?;
    let conditional = [put_if_leased(&run, "theirs"), delete_if_leased(&run, "theirs")];
    for write in conditional {
        let answers = answer("several writes", run.leases.write(&[write], gone)).await?;
        sentence.holds(matches!(answers.as_deref(), Ok([false])), || {
            format!("a conditional one was answered {answers:?}")
        })?;
    }
    let writes = [delete_if_leased(&run, "theirs"), put(&run, "new")];
    let refused = answer("several writes", run.leases.write(&writes, gone)).await?;
    sentence.holds(matches!(refused, Err(StoreError::LeaseGone)), || {
        format!("a put among them was answered {refused:?}")
    })?;
    sentence.same(&keys(&run.list().await?.entries), &vec![&run.key("theirs")])
}

/// A store that finds strays finds all of them, and none that is not.
pub async fn keys_that_are_not_under_the_lease_are_strays(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let first = run.grant(LONG).await?.id;
    for name in ["ours", "deleted", "theirs"] {
        run.put_under(name, "1", first).await?;
    }
    run.delete_under("deleted", first).await?;
    run.put("theirs", "2").await?;
    let theirs = run.entry("theirs").await?;
    let found = strays(&run, &["ours", "theirs", "deleted", "absent"], first).await?;
    // A store need not find any.
    if found.is_empty() {
        return Ok(());
    }
    let expected = vec![
        (run.key("absent"), None),
        (run.key("deleted"), None),
        (run.key("theirs"), Some(theirs)),
    ];
    Sentence::StraysAreTold.same(&found, &expected)?;
    Sentence::StraysAreTold.same(&strays(&run, &["ours"], first).await?, &Vec::new())?;
    Sentence::StraysAreTold.same(&strays(&run, &[], first).await?, &Vec::new())
}

/// A put of a stray writes over nobody's entry.
pub async fn a_put_of_a_key_without_a_lease_never_writes_over_a_successor(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    let sentence = Sentence::PutIfUnleasedObeys;
    let first = run.grant(LONG).await?.id;
    if !finds_strays(&run).await? {
        return Ok(());
    }
    run.put_under("ours", "1", first).await?;
    run.put("theirs", "1").await?;
    run.put_under("deleted", "1", first).await?;
    run.delete_under("deleted", first).await?;
    for (name, is_put) in [("ours", false), ("theirs", false), ("deleted", true), ("new", true)] {
        let before = run.found(name).await?;
        sentence.same(&put_if_unleased(&run, name, "2", first).await?, &is_put)?;
        let after = run.found(name).await?;
        if is_put {
            let after = after.map(|entry| (entry.value, entry.lease));
            sentence.same(&after, &Some((Bytes::from("2"), Some(first))))?;
        } else {
            sentence.same(&after, &before)?;
        }
    }
    run.revoke(first).await?;
    let key = run.key("new");
    let put = run.leases.put_if_unleased(&key, Bytes::new(), first);
    let put = answer("a put of a stray", put).await?;
    sentence.holds(matches!(put, Err(StoreError::LeaseGone)), || {
        format!("under a lease that is gone it was answered {put:?}")
    })?;
    sentence.same(&run.found("new").await?, &None)
}

/// Whether the store finds strays at all.
pub(super) async fn finds_strays(run: &Run) -> Result<bool, Breach> {
    Ok(!strays(run, &["never put"], run.lease).await?.is_empty())
}

pub(super) async fn put_if_unleased(
    run: &Run,
    name: &str,
    value: &'static str,
    lease: LeaseId,
) -> Result<bool, Breach> {
    let key = run.key(name);
    done("a put of a stray", run.leases.put_if_unleased(&key, Bytes::from(value), lease)).await
}

/// The strays among these, ordered by key.
async fn strays(
    run: &Run,
    names: &[&str],
    lease: LeaseId,
) -> Result<Vec<(Key, Option<Entry>)>, Breach> {
    let keys: Vec<_> = names.iter().map(|name| run.key(name)).collect();
    let mut strays = done("a search for strays", run.leases.strays(&keys, lease)).await?;
    strays.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(strays)
}

fn put(run: &Run, name: &str) -> LeasedWrite {
    LeasedWrite::Put(run.key(name), Bytes::from("2"))
}

fn put_if_leased(run: &Run, name: &str) -> LeasedWrite {
    LeasedWrite::PutIfLeased(run.key(name), Bytes::from("2"))
}

fn delete_if_leased(run: &Run, name: &str) -> LeasedWrite {
    LeasedWrite::DeleteIfLeased(run.key(name))
}
