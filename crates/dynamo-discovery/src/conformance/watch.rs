//! Watches: what they deliver, and what they say when there is nothing to deliver.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::run::{LONG, Run, SLACK, cursor_of, within};
use super::watching::{Watching, key_of};
use super::{Backend, Breach, Outcome, Sentence};
use crate::store::{Change, Entry, Key, Revision};

/// How long a watch may be quiet.
const QUIET: Duration = Duration::from_secs(5);

/// A watch delivers every change after its cursor, once, in order.
pub async fn a_watch_delivers_every_later_change_once_in_order(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("before", "").await?;
    let mut watching = run.watch_from_now().await?;
    // In two parts: one while nobody polls the watch, one change by change.
    let value_of = |number: usize| (format!("{}", number % 7), number.to_string());
    for number in 0..100 {
        let (name, value) = value_of(number);
        run.put(&name, &value).await?;
    }
    for number in 0..120 {
        let (name, value) = value_of(number);
        if number >= 100 {
            run.put(&name, &value).await?;
        }
        let entry = watching.put().await?;
        Sentence::WatchIsComplete
            .same(&(entry.key, &entry.value[..]), &(run.key(&name), value.as_bytes()))?;
    }
    Ok(())
}

/// What one handle writes is delivered by the watches of every handle.
pub async fn a_watch_delivers_what_was_written_through_any_handle(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    let other = run.on_other_handles();
    let mut watches =
        [run.watch_from_now().await?, run.watch_from_now().await?, other.watch_from_now().await?];
    for (number, writer) in [&run, &other, &run].into_iter().enumerate() {
        writer.put("a", &number.to_string()).await?;
        let entry = writer.entry("a").await?;
        for watching in &mut watches {
            watching.delivers(&entry).await?;
        }
    }
    // What both wrote before it began, a watch delivers as well.
    let (snapshot, _) = run.list_and_watch().await?;
    run.put("b", "").await?;
    other.put("c", "").await?;
    for reader in [&run, &other] {
        let Some(mut watching) = reader.resume(&cursor_of(&snapshot)).await? else { continue };
        watching.delivers(&run.entry("b").await?).await?;
        watching.delivers(&run.entry("c").await?).await?;
    }
    Ok(())
}

/// A change that happens after a list and before the watch is delivered.
pub async fn a_change_between_list_and_watch_is_delivered(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("kept", "").await?;
    let cursor = run.cursor().await?;
    run.put("new", "").await?;
    run.delete("kept").await?;
    let Some(mut watching) = run.resume(&cursor).await? else { return Ok(()) };
    watching.delivers(&run.entry("new").await?).await?;
    watching.delivers_deletion(&run.key("kept")).await
}

/// List and watch together, beside a writer that never pauses, hold every change exactly once.
pub async fn nothing_is_lost_or_twice_while_others_write(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let write = async {
        for number in 0..300 {
            run.put(&format!("{}", number % 10), &number.to_string()).await?;
            tokio::task::yield_now().await;
        }
        run.put("last", "").await
    };
    let read = async {
        for _ in 0..3 {
            let (snapshot, mut watching) = run.list_and_watch().await?;
            let mut held = by_key(snapshot.entries);
            while !held.contains_key(&run.key("last")) {
                let entry = watching.put().await?;
                held.insert(entry.key.clone(), entry);
            }
            let listed = by_key(run.list().await?.entries);
            Sentence::WatchIsComplete.same(&revisions(&held), &revisions(&listed))?;
            Sentence::WatchTellsChanges.same(&held, &listed)?;
        }
        Ok(())
    };
    tokio::try_join!(write, read).map(|((), ())| ())
}

pub(super) fn by_key(entries: Vec<Entry>) -> BTreeMap<Key, Entry> {
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

pub(super) fn revisions(entries: &BTreeMap<Key, Entry>) -> Vec<(&Key, Revision)> {
    entries.iter().map(|(key, entry)| (key, entry.mod_revision)).collect()
}

/// A put of the value that is there already, under the lease that is there already, is a change as
/// any other.
pub async fn a_put_that_changes_nothing_is_a_change(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "same").await?;
    let (_, mut watching) = run.list_and_watch().await?;
    let mut before = run.entry("a").await?;
    for is_conditional in [false, true, false] {
        if is_conditional {
            let put = run.put_if_leased("a", "same", run.lease).await?;
            Sentence::ConditionalPutObeys.same(&put, &true)?;
        } else {
            run.put("a", "same").await?;
        }
        let entry = run.entry("a").await?;
        Sentence::RevisionsRise.holds(entry.mod_revision > before.mod_revision, || {
            format!("put again, and the revision went from {before:?} to {entry:?}")
        })?;
        watching.delivers(&entry).await?;
        before = entry;
    }
    Ok(())
}

/// A deletion names the key.
pub async fn a_deletion_is_delivered_without_a_value(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "").await?;
    let mut watching = run.watch_from_now().await?;
    run.delete("a").await?;
    run.put("b", "").await?;
    watching.delivers_deletion(&run.key("a")).await?;
    watching.delivers(&run.entry("b").await?).await?;
    Sentence::ListIsCurrent.same(&run.found("a").await?, &None)
}

/// All changes of one revision come in one batch.
pub async fn a_revision_with_several_keys_arrives_whole(backend: &dyn Backend) -> Outcome {
    const KEYS: usize = 50;
    let run = Run::new(backend).await?;
    let other = run.grant(LONG).await?.id;
    for number in 0..KEYS {
        run.put_under(&format!("{number:02}"), "", other).await?;
    }
    run.put("kept", "").await?;
    let mut watching = run.watch_from_now().await?;
    // At the same time: a watch that is read later may deliver several revisions at once.
    let ((), changes) = tokio::try_join!(run.revoke(other), deletions(&mut watching, KEYS))?;
    let expected = (0..KEYS).map(|number| Change::Delete(run.key(&format!("{number:02}"))));
    Sentence::WatchTellsChanges.same(&changes, &expected.collect())
}

/// The deletions by the end of one lease, ordered by key.
pub(super) async fn deletions(
    watching: &mut Watching,
    count: usize,
) -> Result<Vec<Change>, Breach> {
    let (first, mut changes) = watching.batch().await?;
    if changes.len() < count {
        // Were it the same revision, the watch would say that the revision is not whole.
        let (revision, _) = watching.batch().await?;
        let how =
            format!("{} of {count} deletions in revision {first}, then {revision}", changes.len());
        return Err(Sentence::LeaseEndIsOneRevision.broken(how));
    }
    changes.sort_by(|a, b| key_of(a).cmp(key_of(b)));
    Ok(changes)
}

/// A batch's revision is that of its last change, be it a put, a deletion or the end of a lease.
pub async fn a_batch_tells_the_revision_of_its_last_change(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    for round in 0..3 {
        // A put tells its revision itself, and every batch is compared with it. A deletion is
        // between the puts around it.
        run.put("a", &round.to_string()).await?;
        run.put_outside("-other/a").await?;
        let (put, _) = watching.batch().await?;
        if round == 0 {
            run.delete("a").await?;
        } else {
            let lease = run.grant(LONG).await?.id;
            run.put_under("b", "", lease).await?;
            watching.batch().await?;
            run.revoke(lease).await?;
        }
        let (deleted, _) = watching.batch().await?;
        let now = run.list().await?.revision;
        run.put("c", &round.to_string()).await?;
        let next = run.entry("c").await?.mod_revision;
        Sentence::BatchTellsItsRevision
            .holds(put < deleted && deleted <= now && deleted < next, || {
                format!("{deleted} for a deletion after {put}, before {next}, and up to {now}")
            })?;
        watching.batch().await?;
        // Many at once, for whoever reads them at once.
        for number in 0..20 {
            run.put(&number.to_string(), &round.to_string()).await?;
        }
        for _ in 0..20 {
            watching.change().await?;
        }
    }
    Ok(())
}

/// A quiet watch says so at least every five seconds, also while others write beside its range.
pub async fn a_quiet_watch_says_that_it_is_alive(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    for _ in 0..2 {
        alive(&mut watching).await?;
    }
    run.put("a", "1").await?;
    watching.delivers(&run.entry("a").await?).await?;
    let beside = async {
        loop {
            run.put_outside("-other/a").await?;
            sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        alive = alive(&mut watching) => alive?,
        failed = beside => return failed,
    }
    run.put("a", "2").await?;
    watching.delivers(&run.entry("a").await?).await
}

async fn alive(watching: &mut Watching) -> Outcome {
    let item = timeout(QUIET + SLACK, watching.next_item()).await;
    let silent = |_| Sentence::QuietWatchIsAlive.broken(format!("silent for {QUIET:?}"));
    let batch = item.map_err(silent)??;
    Sentence::WatchDeliversOnce.same(&batch, &None)
}

/// A dropped watch leaves nothing behind that runs.
pub async fn a_dropped_watch_leaves_no_task(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut first = run.watch_from_now().await?;
    run.put("a", "").await?;
    first.change().await?;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let with_one = tasks();
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(run.watch_from_now().await?);
    }
    run.put("a", "again").await?;
    for watching in others.iter_mut().chain([&mut first]) {
        watching.change().await?;
    }
    drop(others);
    within(Sentence::DroppedWatchEnds, "the end of every task", async {
        while tasks() > with_one {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await?;
    run.put("b", "").await?;
    let entry = run.entry("b").await?;
    let ended = [Sentence::WatchLasts, Sentence::WatchIsComplete];
    let delivered = first.delivers(&entry).await;
    delivered.map_err(|breach| breach.blamed_on(Sentence::DroppedWatchEnds, &ended))
}
