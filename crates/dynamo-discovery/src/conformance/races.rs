//! Calls that meet, on several threads.
//!
//! No run proves that a store has no race. Each case repeats the meeting often enough that a store
//! which reads and then writes, in two steps, is found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use super::list::{count_of, list_while_others_write};
use super::run::{LONG, Run, done};
use super::watch::{by_key, revisions};
use super::writes::{finds_strays, put_if_unleased};
use super::{Backend, Breach, Outcome, Sentence};
use crate::store::{Change, Entry, LeaseId, LeasedWrite, StoreError};

/// How much is tried at least, and for how long: a fast store gets more.
const ROUNDS: usize = 5;
const EFFORT: Duration = Duration::from_millis(500);
/// How often two meet in a round.
const MEETINGS: usize = 20;
/// How many put under a lease while it ends.
const WORKERS: usize = 4;
/// How many write at once, and how much each of them.
const WRITERS: usize = 8;
const PUTS: usize = 40;

/// A worker's last conditional put and its successor's first put: the successor's stays.
pub async fn a_conditional_put_that_meets_a_successor_never_writes_over_it(
    backend: &dyn Backend,
) -> Outcome {
    meet_a_successor(backend, Conditional::Put).await
}

/// A worker's conditional delete and its successor's first put: the successor's stays.
pub async fn a_conditional_delete_that_meets_a_successor_never_deletes_it(
    backend: &dyn Backend,
) -> Outcome {
    meet_a_successor(backend, Conditional::Delete).await
}

/// A worker's put of a key that somebody has deleted and its successor's puts: the successor's stay.
pub async fn a_put_of_a_stray_that_meets_a_successor_never_writes_over_it(
    backend: &dyn Backend,
) -> Outcome {
    let run = in_parallel(backend).await?;
    if finds_strays(&run).await? {
        meet_a_successor(backend, Conditional::Stray).await
    } else {
        Ok(())
    }
}

/// What a worker does that must not touch a successor's entry.
#[derive(Clone, Copy)]
enum Conditional {
    Put,
    Delete,
    Stray,
}

impl Conditional {
    /// The worker's part of a meeting: as a single call, or as one of several writes.
    async fn run(self, run: &Run, lease: LeaseId, is_single: bool) -> Outcome {
        let write = match self {
            Self::Put if is_single => return run.put_if_leased("a", LATE, lease).await.map(drop),
            Self::Put => LeasedWrite::PutIfLeased(run.key("a"), Bytes::from(LATE)),
            Self::Delete if is_single => return run.delete_under("a", lease).await.map(drop),
            Self::Delete => LeasedWrite::DeleteIfLeased(run.key("a")),
            Self::Stray => {
                run.delete_under("a", lease).await?;
                return put_if_unleased(run, "a", LATE, lease).await.map(drop);
            }
        };
        done("several writes", run.leases.write(&[write], lease)).await.map(drop)
    }

    fn sentence(self) -> Sentence {
        match self {
            Self::Put => Sentence::ConditionalPutIsAtomic,
            Self::Delete => Sentence::ConditionalDeleteIsAtomic,
            Self::Stray => Sentence::PutIfUnleasedIsAtomic,
        }
    }

    /// Whether a change may come after an entry of this lease, or after none.
    fn allows(self, change: &Change, before: Option<LeaseId>, first: LeaseId) -> bool {
        let is_late = matches!(change, Change::Put(entry) if entry.value == LATE);
        let is_deletion = matches!(change, Change::Delete(_));
        match self {
            Self::Put => !is_late || before == Some(first),
            Self::Delete => !is_deletion || before == Some(first),
            Self::Stray => !is_late || before.is_none(),
        }
    }
}

/// The value of a conditional put.
const LATE: &str = "late";

/// A worker puts its key and withdraws it, again and again, while a successor puts it as well. The
/// watch tells in which order they came, and so what each write came upon.
async fn meet_a_successor(backend: &dyn Backend, write: Conditional) -> Outcome {
    let run = in_parallel(backend).await?;
    let first = run.grant(LONG).await?.id;
    let mut watching = run.watch_from_now().await?;
    let mut before = None;
    let mut effort = Effort::begin();
    while effort.goes_on() {
        let mut both = Tasks::default();
        let (worker, successor) = (run.on_other_handles(), run.clone());
        both.spawn(async move {
            for number in 0..MEETINGS {
                worker.put_under("a", "first", first).await?;
                write.run(&worker, first, number % 2 == 0).await?;
            }
            Ok(())
        });
        both.spawn(async move {
            for _ in 0..2 * MEETINGS {
                successor.put("a", "successor").await?;
            }
            Ok(())
        });
        both.end().await?;

        run.put("end", "").await?;
        loop {
            let change = watching.change().await?;
            let lease = match &change {
                Change::Put(entry) if entry.key == run.key("end") => break,
                Change::Put(entry) => entry.lease,
                Change::Delete(_) => None,
            };
            write.sentence().holds(write.allows(&change, before, first), || {
                format!(
                    "{change:?} came after an entry of {before:?}, and the worker's is {first:?}"
                )
            })?;
            before = lease;
        }
    }
    Ok(())
}

/// A put and the end of its lease: the put is refused, or the key is deleted.
pub async fn a_put_that_meets_the_end_of_its_lease_leaves_no_key(backend: &dyn Backend) -> Outcome {
    let run = in_parallel(backend).await?;
    let mut effort = Effort::begin();
    while effort.goes_on() {
        let lease = run.grant(LONG).await?.id;
        let mut all = Tasks::default();
        let is_over = Arc::new(AtomicBool::new(false));
        for number in 0..WORKERS {
            let run = if number % 2 == 0 { run.clone() } else { run.on_other_handles() };
            let (name, is_over) = (number.to_string(), is_over.clone());
            all.spawn(async move {
                while put_or_refused(&run, &name, lease).await? && !is_over.load(Ordering::Relaxed)
                {
                    yield_now().await;
                }
                Ok(())
            });
        }
        let owner = run.clone();
        all.spawn(async move {
            // Not before the others have begun.
            while owner.list().await?.entries.is_empty() {
                yield_now().await;
            }
            let revoked = owner.revoke(lease).await;
            is_over.store(true, Ordering::Relaxed);
            revoked
        });
        all.end().await?;
        let left = run.list().await?.entries;
        Sentence::PutIsAtomic.same(&left, &Vec::new())?;
    }
    Ok(())
}

/// Whether a put was done, and not refused.
async fn put_or_refused(run: &Run, name: &str, lease: LeaseId) -> Result<bool, Breach> {
    match run.try_put(name, lease).await? {
        Ok(()) => Ok(true),
        Err(StoreError::LeaseGone) => Ok(false),
        Err(error) => Err(Sentence::PutNeedsLease.broken(format!("answered {error:?}"))),
    }
}

/// Each of many writers' puts has its own revision, and every watch and list agrees on them.
pub async fn writers_on_several_threads_get_revisions_of_their_own(
    backend: &dyn Backend,
) -> Outcome {
    let run = in_parallel(backend).await?;
    let mut readers = Tasks::default();
    for reader in [run.clone(), run.on_other_handles()] {
        let mut watching = reader.watch_from_now().await?;
        readers.spawn(async move {
            let mut held = BTreeMap::<_, Entry>::new();
            let mut reached = None;
            for _ in 0..WRITERS * PUTS {
                let entry = watching.put().await?;
                Sentence::RevisionsRise.holds(Some(entry.mod_revision) > reached, || {
                    format!("{reached:?}, and then {entry:?}")
                })?;
                reached = Some(entry.mod_revision);
                let count = held.get(&entry.key).map_or(0, |before| count_of(before) + 1);
                Sentence::WatchIsComplete.same(&count_of(&entry), &count)?;
                held.insert(entry.key.clone(), entry);
            }
            let listed = by_key(reader.list().await?.entries);
            Sentence::WatchIsComplete.same(&revisions(&held), &revisions(&listed))?;
            Sentence::WatchTellsChanges.same(&held, &listed)
        });
        let lister = run.on_other_handles();
        readers.spawn(async move {
            let mut before = BTreeMap::new();
            for _ in 0..PUTS {
                for entry in lister.list().await?.entries {
                    let count = count_of(&entry);
                    let last = before.insert(entry.key.clone(), count).unwrap_or_default();
                    Sentence::ListIsCurrent
                        .holds(last <= count, || format!("listed {last}, and then {entry:?}"))?;
                }
                yield_now().await;
            }
            Ok(())
        });
    }
    let mut writers = Tasks::default();
    for number in 0..WRITERS {
        let run = if number % 2 == 0 { run.clone() } else { run.on_other_handles() };
        writers.spawn(async move {
            for count in 0..PUTS {
                run.put(&number.to_string(), &count.to_string()).await?;
            }
            Ok(())
        });
    }
    writers.end().await?;
    readers.end().await
}

/// A list that is read on one thread while another thread writes is of one revision.
pub async fn a_list_shows_one_revision_while_other_threads_write(backend: &dyn Backend) -> Outcome {
    list_while_others_write(in_parallel(backend).await?, EFFORT).await
}

/// A run on a runtime of several threads.
pub(super) async fn in_parallel(backend: &dyn Backend) -> Result<Run, Breach> {
    let flavor = Handle::current().runtime_flavor();
    assert!(
        flavor == RuntimeFlavor::MultiThread,
        "races need #[tokio::test(flavor = \"multi_thread\")]: nothing meets on one thread"
    );
    Run::new(backend).await
}

/// How much was tried.
pub(super) struct Effort {
    rounds: usize,
    began: Instant,
}

impl Effort {
    pub(super) fn begin() -> Self {
        Self { rounds: 0, began: Instant::now() }
    }

    pub(super) fn goes_on(&mut self) -> bool {
        self.rounds += 1;
        self.rounds <= ROUNDS || self.began.elapsed() < EFFORT
    }
}

/// Tasks that end together; dropping them ends them all.
#[derive(Default)]
pub(super) struct Tasks(JoinSet<Outcome>);

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = Outcome> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Waits for all, or for the first breach.
    pub(super) async fn end(&mut self) -> Outcome {
        while let Some(task) = self.0.join_next().await {
            match task {
                Ok(outcome) => outcome?,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
        Ok(())
    }
}
