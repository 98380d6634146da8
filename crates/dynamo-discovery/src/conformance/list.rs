//! Lists: what they hold, in which order, and of which revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use super::run::{LONG, Run, done, keys, within};
use super::{Backend, Breach, Outcome, Sentence};
use crate::store::{Entry, Key, Listing, Page, Revision, Snapshot};

/// How many lists are taken while others write, and how much they write at least.
const LISTS: usize = 10;
const COUNTS: usize = 20;

/// Before all pages, and after them.
const FIRST: &str = "first";
const LAST: &str = "~ last";

/// A list has the entries of the range in the order of their keys, with what was last put.
pub async fn a_list_is_ordered_by_key_and_has_the_last_value_of_each(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    Sentence::ListStaysInRange.same(&run.list().await?.entries, &Vec::new())?;
    for (name, value) in [("b", "1"), ("c", "1"), ("a", "1"), ("b", "2")] {
        run.put(name, value).await?;
    }
    let Snapshot { entries, .. } = run.list().await?;
    let is_ordered = entries.is_sorted_by_key(|entry| &entry.key);
    Sentence::ListIsOrdered.holds(is_ordered, || format!("{entries:?}"))?;
    let names = ["a", "b", "c"].map(|name| run.key(name));
    let missing = |key: &&Key| !entries.iter().any(|entry| entry.key == **key);
    Sentence::ListIsComplete.same(&names.iter().find(missing), &None)?;
    Sentence::ListStaysInRange.same(&keys(&entries), &names.iter().collect())?;
    let values: Vec<_> = entries.iter().map(|entry| entry.value.clone()).collect();
    Sentence::ListHasLastValues.same(&values, &["1", "2", "1"].map(Bytes::from).to_vec())
}

/// A rewritten entry has the revision and the lease of its last put, and not of its first.
pub async fn an_entry_tells_which_revision_and_which_lease_put_it_last(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    let other = run.grant(LONG).await?.id;
    for lease in [run.lease, other, run.lease] {
        let before = run.list().await?.revision;
        run.put_under("a", "", lease).await?;
        let entry = run.entry("a").await?;
        let after = run.list().await?.revision;
        let is_right = before < entry.mod_revision && entry.mod_revision <= after;
        Sentence::ListTellsRevisions.holds(is_right, || {
            format!("put after {before} and up to {after}, and the list says {entry:?}")
        })?;
        Sentence::ListTellsLeases.same(&entry.lease, &Some(lease))?;
    }
    Ok(())
}

/// A list's revision is lower than that of the next write, and not lower than that of the last.
pub async fn a_list_tells_the_revision_at_which_it_was_read(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let sentence = Sentence::ListTellsItsRevision;
    let mut before = run.list().await?.revision;
    for value in ["1", "2", "3"] {
        run.put("a", value).await?;
        let Snapshot { revision, entries } = run.list().await?;
        let put = entries.iter().map(|entry| entry.mod_revision).max();
        sentence.holds(put > Some(before), || format!("{before} before, {put:?} put after it"))?;
        sentence.holds(put <= Some(revision), || format!("{revision}, and {put:?} is in it"))?;
        before = revision;
        // A deletion leaves no entry that tells its revision.
        run.put("b", "").await?;
        let put = run.list().await?.revision;
        run.delete("b").await?;
        let Snapshot { revision, .. } = run.list().await?;
        sentence.holds(revision > put, || format!("{put} before a deletion, {revision} after"))?;
        before = before.max(revision);
    }
    Ok(())
}

/// What one handle wrote is in the next list of every handle.
pub async fn a_list_shows_what_was_written_through_any_handle(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let other = run.on_other_handles();
    for number in 0..5 {
        let name = number.to_string();
        let (writer, deleter) = if number % 2 == 0 { (&run, &other) } else { (&other, &run) };
        writer.put("a", &name).await?;
        writer.put(&name, "").await?;
        for reader in [&run, &other] {
            let a = reader.found("a").await?.map(|entry| entry.value);
            Sentence::ListIsCurrent.same(&a, &Some(Bytes::from(name.clone())))?;
        }
        deleter.delete(&name).await?;
        for reader in [&run, &other] {
            Sentence::ListIsCurrent.same(&reader.found(&name).await?, &None)?;
        }
    }
    Ok(())
}

/// Whoever takes a list in page by page knows what it says, and when it has all.
pub async fn the_pages_of_a_list_are_the_list_and_the_last_one_says_so(
    backend: &dyn Backend,
) -> Outcome {
    let run = Run::new(backend).await?;
    let empty = pages_of(&run).await?.1;
    let is_one = matches!(&empty[..], [Page { entries, more: false }] if entries.is_empty());
    Sentence::LastPageSaysSo.holds(is_one, || format!("an empty list has the pages {empty:?}"))?;

    run.put_pages().await?;
    let (revision, pages) = pages_of(&run).await?;
    let more: Vec<_> = pages.iter().map(|page| page.more).collect();
    let is_last = more.split_last().is_some_and(|(last, others)| !last && !others.contains(&false));
    Sentence::LastPageSaysSo.holds(is_last, || format!("the pages have `more` as in {more:?}"))?;
    let paged: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
    let Snapshot { revision: now, entries } = run.list().await?;
    Sentence::PagesAreTheList.holds(paged == entries, || {
        format!("the pages have {} entries, the list {}", paged.len(), entries.len())
    })?;
    // Others may write elsewhere meanwhile.
    let newest = entries.iter().map(|entry| entry.mod_revision).max();
    Sentence::ListTellsItsRevision.holds(newest <= Some(revision) && revision <= now, || {
        format!("{revision} of a list with {newest:?}, and {now} of a later one")
    })
}

async fn pages_of(run: &Run) -> Result<(Revision, Vec<Page>), Breach> {
    let Listing { revision, mut pages } = done("a list", run.store.list_pages(&run.range)).await?;
    let mut taken = Vec::new();
    while let Some(page) = done("a page", pages.try_next()).await? {
        let is_last = !page.more;
        taken.push(page);
        if is_last {
            let after = within(Sentence::LastPageSaysSo, "the end of the pages", pages.next());
            let after = after.await?;
            Sentence::LastPageSaysSo
                .holds(after.is_none(), || format!("after the last page came {after:?}"))?;
            break;
        }
    }
    Ok((revision, taken))
}

/// A list is complete and of one revision also when it is longer than what a store reads at once
/// and others write meanwhile.
pub async fn a_list_of_several_pages_is_complete_and_shows_one_revision(
    backend: &dyn Backend,
) -> Outcome {
    list_while_others_write(Run::new(backend).await?, Duration::ZERO).await
}

/// Lists for so long, and some times at least, while two entries are counted up.
pub(super) async fn list_while_others_write(run: Run, effort: Duration) -> Outcome {
    run.put_pages().await?;
    for name in [FIRST, LAST] {
        run.put(name, "0").await?;
    }
    let pages: Vec<_> = run.pages().map(|name| run.key(&name)).collect();
    let counted = Arc::new(AtomicUsize::new(0));
    let read = async {
        let began = Instant::now();
        let mut number = 0;
        while number < LISTS || counted.load(Ordering::Relaxed) < COUNTS || began.elapsed() < effort
        {
            number += 1;
            let is_paged = number % 2 == 0;
            let (revision, entries) = if is_paged {
                let (revision, pages) = pages_of(&run).await?;
                (revision, pages.into_iter().flat_map(|page| page.entries).collect())
            } else {
                let Snapshot { revision, entries } = run.list().await?;
                (revision, entries)
            };
            let newest = entries.iter().map(|entry| entry.mod_revision).max();
            Sentence::ListIsOneRevision.holds(newest <= Some(revision), || {
                format!("an entry is of {newest:?} and the list of {revision}")
            })?;
            let is_page = |entry: &Entry| pages.binary_search(&entry.key).is_ok();
            let (paged, counts) = entries.into_iter().partition::<Vec<_>, _>(is_page);
            let counts: Vec<_> = counts.iter().map(count_of).collect();
            let is_one = matches!(counts[..], [first, last] if first == last || first == last + 1);
            Sentence::ListIsOneRevision.holds(is_one, || {
                format!("the first entry is written before the last one, and they say {counts:?}")
            })?;
            let complete =
                if is_paged { Sentence::PagesAreTheList } else { Sentence::ListIsComplete };
            complete.holds(keys(&paged).into_iter().eq(&pages), || {
                format!("{} entries, and {} were put", paged.len(), pages.len())
            })?;
            yield_now().await;
        }
        Ok(())
    };
    // A task of its own, so that it goes on while a list is compared.
    let mut writer = JoinSet::new();
    writer.spawn(count_for_ever(run.on_other_handles(), counted.clone()));
    tokio::select! {
        read = read => read,
        stopped = writer.join_next() => stopped.expect("the writer").expect("no panic"),
    }
}

/// Counts in an entry before all pages and in one after them. The first is ahead by one, or by none.
async fn count_for_ever(run: Run, counted: Arc<AtomicUsize>) -> Outcome {
    for count in 1.. {
        for name in [FIRST, LAST] {
            run.put(name, &usize::to_string(&count)).await?;
        }
        counted.store(count, Ordering::Relaxed);
        yield_now().await;
    }
    Ok(())
}

/// The number that is an entry's value.
pub(super) fn count_of(entry: &Entry) -> usize {
    let text = std::str::from_utf8(&entry.value).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usize::MAX / 2)
}

/// Neither list nor watch shows what lies beside the range.
pub async fn a_range_ends_at_its_boundary(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    let beside = ["", "-other/a", "0", ".", "0/a"];
    for suffix in beside {
        run.put_outside(suffix).await?;
    }
    // Deletions as well: by whoever put the key, and by the end of a lease.
    for suffix in &beside[..3] {
        let key = run.outside(suffix);
        let deleted = done("a delete", run.leases.delete_if_leased(&key, run.lease)).await?;
        Sentence::ConditionalDeleteObeys.same(&deleted, &true)?;
    }
    let other = run.grant(LONG).await?.id;
    for key in [run.outside("0"), run.outside("-other/b"), run.key("with others")] {
        done("a put", run.leases.put(&key, Bytes::new(), other)).await?;
    }
    watching.delivers(&run.entry("with others").await?).await?;
    run.revoke(other).await?;
    watching.delivers_deletion(&run.key("with others")).await?;

    run.put("a", "inside").await?;
    run.put("", "the prefix itself").await?;
    let Snapshot { entries, .. } = run.list().await?;
    let outside = entries.iter().find(|entry| !run.range.contains(&entry.key));
    Sentence::ListStaysInRange.same(&outside, &None)?;
    Sentence::ListIsComplete.same(&keys(&entries), &[&run.key(""), &run.key("a")].to_vec())?;
    watching.delivers(&run.entry("a").await?).await?;
    watching.delivers(&run.entry("").await?).await
}

/// Keys and values are bytes.
pub async fn keys_and_values_that_are_not_utf_8_survive(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let mut watching = run.watch_from_now().await?;
    for odd in [&b"\xff\xfe\x00"[..], b"\x00", b"\xf0\x9f\x92", b"\r\n\x1b", b" a "] {
        let key = Key::from([run.range.start().as_bytes(), odd].concat());
        done("a put", run.leases.put(&key, Bytes::from_static(odd), run.lease)).await?;
        let entry = watching.put().await?;
        Sentence::KeysAreBytes.same(&(&entry.key, &entry.value[..]), &(&key, odd))?;
        let Snapshot { entries, .. } = run.list().await?;
        let listed = entries.iter().find(|listed| listed.key == key);
        Sentence::KeysAreBytes.same(&listed.map(|listed| &listed.value[..]), &Some(odd))?;
    }
    Ok(())
}
