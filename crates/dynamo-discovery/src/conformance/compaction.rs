//! Compactions: what they end, and what they must leave alone.

use super::run::{Run, cursor_of, keys};
use super::watching::key_of;
use super::{Compacts, Outcome, Sentence};
use crate::store::{Cursor, StoreError};

/// A watch from what is compacted says so, at the call or in the stream, and does not hang.
pub async fn a_resume_after_a_compaction_says_compacted_and_never_hangs(
    backend: &dyn Compacts,
) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "1").await?;
    let Cursor { revision, anchor } = run.cursor().await?;
    for value in ["2", "3", "4"] {
        run.put("a", value).await?;
    }
    backend.compact().await;
    for anchor in [anchor, None] {
        is_compacted(&run, &Cursor { revision, anchor }).await?;
    }
    Ok(())
}

/// Where the anchor cannot be looked up any more, the resume is not taken on trust.
pub async fn an_anchor_that_was_compacted_proves_nothing(backend: &dyn Compacts) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "1").await?;
    let cursor = run.cursor().await?;
    // The watch could begin at the next revision, the compacted one; the anchor is before it.
    run.put("a", "2").await?;
    backend.compact().await;
    is_compacted(&run, &cursor).await
}

async fn is_compacted(run: &Run, cursor: &Cursor) -> Outcome {
    let error = run.refusal(Sentence::CompactedIsTold, cursor).await?;
    Sentence::CompactedIsTold.holds(matches!(error, StoreError::Compacted), || {
        format!("the watch after {cursor:?} was refused as {error:?}")
    })
}

/// A list of several pages does not fail because of a compaction between two of them.
pub async fn a_list_that_a_compaction_interrupts_begins_again(backend: &dyn Compacts) -> Outcome {
    let run = Run::new(backend).await?;
    run.put_pages().await?;
    let pages: Vec<_> = run.pages().map(|name| run.key(&name)).collect();
    for _ in 0..20 {
        let compact = async {
            run.put("~ other", "").await?;
            backend.compact().await;
            Ok(())
        };
        let list = async {
            let failed = [Sentence::StoreAnswers];
            let listed = run.list().await;
            listed.map_err(|breach| breach.blamed_on(Sentence::CompactionSparesLists, &failed))
        };
        let (snapshot, ()) = tokio::try_join!(list, compact)?;
        let other = run.key("~ other");
        let listed = keys(&snapshot.entries).into_iter().filter(|key| **key != other);
        Sentence::CompactionSparesLists.holds(listed.eq(&pages), || {
            format!("{} of {} entries", snapshot.entries.len(), pages.len())
        })?;
    }
    Ok(())
}

/// Listing again is what helps.
pub async fn a_list_taken_after_a_compaction_can_be_watched_from(
    backend: &dyn Compacts,
) -> Outcome {
    let run = Run::new(backend).await?;
    run.put("a", "").await?;
    run.put("b", "").await?;
    backend.compact().await;
    let snapshot = run.list().await?;
    Sentence::ListIsComplete.same(&keys(&snapshot.entries), &vec![&run.key("a"), &run.key("b")])?;
    for entry in &snapshot.entries {
        let anchor = Some((entry.key.clone(), entry.stamp()));
        let resumed = run.resume(&Cursor { revision: snapshot.revision, anchor }).await;
        let refused = [Sentence::WatchIsComplete, Sentence::AnchorIsOfItsTime];
        let resumed = resumed
            .map_err(|breach| breach.blamed_on(Sentence::CompactionSparesNewLists, &refused));
        let Some(mut watching) = resumed? else { continue };
        run.put("c", "").await?;
        watching.change().await?;
    }
    Ok(())
}

/// Compaction forgets the past, which a watch that is up to date does not need.
pub async fn a_watch_that_is_up_to_date_survives_a_compaction(backend: &dyn Compacts) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    for value in ["1", "2", "3"] {
        run.put("a", value).await?;
        let delivered = watching.delivers(&run.entry("a").await?).await;
        let ended = [Sentence::WatchLasts, Sentence::WatchIsComplete];
        delivered.map_err(|breach| breach.blamed_on(Sentence::CompactionSparesWatches, &ended))?;
        backend.compact().await;
    }
    Ok(())
}

/// A watch that has not delivered what is compacted delivers it all the same, or ends.
pub async fn a_watch_that_a_compaction_overtakes_skips_nothing(backend: &dyn Compacts) -> Outcome {
    let run = Run::new(backend).await?;
    let snapshot = run.list().await?;
    let Some(mut watching) = run.resume(&cursor_of(&snapshot)).await? else { return Ok(()) };
    let names: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    for (number, name) in names.iter().enumerate() {
        run.put(name, "").await?;
        if number == 14 {
            backend.compact().await;
        }
    }
    let mut delivered = Vec::new();
    while delivered.len() < names.len() {
        match watching.batch_or_end(Sentence::WatchIsComplete).await? {
            Ok(changes) => delivered.extend(changes),
            Err(None | Some(StoreError::Compacted)) => break,
            Err(Some(error)) => {
                let how = format!("the watch failed with {error:?}");
                return Err(Sentence::WatchLasts.broken(how));
            }
        }
    }
    let delivered: Vec<_> = delivered.iter().map(key_of).collect();
    let put: Vec<_> = names.iter().map(|name| run.key(name)).collect();
    let put: Vec<_> = put.iter().take(delivered.len()).collect();
    Sentence::WatchIsComplete.same(&delivered, &put)
}
