//! Where a watch begins: cursors of lists and of batches, and what proves them.

use super::run::{LONG, Run, cursor_of};
use super::watching::key_of;
use super::{Backend, Outcome, Sentence};
use crate::store::{Change, Cursor, LeaseId, Revision, Stamp};

/// A watch from any earlier list delivers what came after it.
pub async fn a_resume_goes_on_after_its_cursor(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut cursors = Vec::new();
    for number in 0..10 {
        run.put(&number.to_string(), "").await?;
        cursors.push(run.cursor().await?);
    }
    for (number, cursor) in cursors.iter().enumerate().take(9) {
        for cursor in [cursor, &Cursor { anchor: None, ..cursor.clone() }] {
            let Some(mut watching) = run.resume(cursor).await? else { continue };
            for later in number + 1..10 {
                watching.delivers(&run.entry(&later.to_string()).await?).await?;
            }
        }
    }
    Ok(())
}

/// A watch from any batch of another watch delivers what came after the batch.
pub async fn a_resume_from_a_batch_goes_on_after_the_batch(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    let lease = run.grant(LONG).await?.id;
    for name in ["kept", "a", "b"] {
        run.put(name, "").await?;
    }
    run.delete("a").await?;
    for name in ["c", "d"] {
        run.put_under(name, "", lease).await?;
    }
    run.put("kept", "again").await?;
    run.revoke(lease).await?;
    run.delete("b").await?;
    run.put("last", "").await?;

    // Each batch's cursor, with as many changes as were delivered up to there.
    let (mut cursors, mut changes) = (Vec::new(), Vec::new());
    let mut anchor = None;
    let is_last = |change: &Change| *key_of(change) == run.key("last");
    while !changes.last().is_some_and(is_last) {
        let (revision, batch) = watching.batch().await?;
        for change in &batch {
            match change {
                Change::Put(entry) if entry.key == run.key("kept") => {
                    anchor = Some((entry.key.clone(), entry.stamp()));
                }
                _ => {}
            }
        }
        changes.extend(batch);
        cursors.push((Cursor { revision, anchor: anchor.clone() }, changes.len()));
    }
    run.put("end", "").await?;
    changes.push(watching.change().await?);

    for (cursor, delivered) in &cursors {
        let without_anchor = Cursor { anchor: None, ..cursor.clone() };
        let expected = &changes[*delivered..];
        for handle in [&run, &run.on_other_handles()] {
            for cursor in [cursor, &without_anchor] {
                let Some(mut resumed) = handle.resume(cursor).await? else { continue };
                let mut found = Vec::new();
                while found.len() < expected.len() {
                    found.push(resumed.change().await?);
                }
                Sentence::WatchIsComplete.same(&by_key(&found), &by_key(expected))?;
            }
        }
    }
    Ok(())
}

/// Of the changes of one revision, only the order of those of one key is promised.
fn by_key(changes: &[Change]) -> Vec<Change> {
    let mut changes = changes.to_vec();
    changes.sort_by(|a, b| key_of(a).cmp(key_of(b)));
    changes
}

/// The anchor counts as it was at the cursor, whatever became of it later.
pub async fn an_anchor_proves_what_was_live_then_and_not_what_is_now(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("written", "1").await?;
    run.put("deleted", "").await?;
    let snapshot = run.list().await?;
    run.put("written", "2").await?;
    run.delete("deleted").await?;
    for entry in &snapshot.entries {
        let anchor = Some((entry.key.clone(), entry.stamp()));
        let cursor = Cursor { revision: snapshot.revision, anchor };
        let Some(mut watching) = run.resume(&cursor).await? else { continue };
        watching.delivers(&run.entry("written").await?).await?;
        watching.delivers_deletion(&run.key("deleted")).await?;
    }
    Ok(())
}

/// A cursor whose anchor is not in the store's history is of another store.
pub async fn a_wrong_anchor_says_replaced(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("deleted", "").await?;
    let deleted = run.entry("deleted").await?;
    run.delete("deleted").await?;
    run.put("live", "1").await?;
    let early = run.entry("live").await?;
    run.put("live", "2").await?;
    let revision = run.list().await?.revision;
    let live = run.entry("live").await?.stamp();
    // What is right now was not right then, either.
    run.put("later", "").await?;
    let later = run.entry("later").await?;
    for (key, stamp) in [
        (run.key("live"), early.stamp()),
        (run.key("live"), Stamp { revision: Revision(revision.0 + 1), ..live }),
        // The same key at the same revision, as a store that was wiped and refilled may have it.
        (run.key("live"), Stamp { lease: Some(LeaseId(run.lease.0 + 1)), ..live }),
        (run.key("live"), Stamp { lease: None, ..live }),
        (run.key("deleted"), deleted.stamp()),
        (run.key("later"), later.stamp()),
        (run.key("never"), Stamp { revision, ..live }),
    ] {
        let cursor = Cursor { revision, anchor: Some((key, stamp)) };
        run.is_replaced(Sentence::AnchorIsProven, &cursor).await?;
    }
    Ok(())
}

/// A store that has not reached the cursor is not the one that it is from.
pub async fn a_cursor_ahead_of_the_store_says_replaced(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "").await?;
    for ahead in [1, 2, 1_000, 1_000_000, 1 << 40, i64::MAX as u64, u64::MAX] {
        let Cursor { revision, anchor } = cursor_of(&run.list().await?);
        let revision = Revision(revision.0.saturating_add(ahead));
        for anchor in [anchor, None] {
            let refused =
                run.is_replaced(Sentence::CursorIsReached, &Cursor { revision, anchor }).await;
            // Others write meanwhile, and the store may have reached what is near.
            if refused.is_err() && run.list().await?.revision < revision {
                return refused;
            }
        }
    }
    Ok(())
}
