//! What counting frontends need: puts that compare the revision.

use std::sync::Arc;

use bytes::Bytes;

use super::races::{Effort, Tasks, in_parallel};
use super::run::{LONG, Run, answer, done};
use super::{Breach, Counts, Outcome, Sentence};
use crate::counter_store::CounterStore;
use crate::store::{LeaseId, Revision, StoreError};

/// How many count at once, and how often each.
const COUNTERS: usize = 4;
const COUNTED: u64 = 10;

/// A run with a handle of a counting frontend.
struct Counting {
    run: Run,
    store: Arc<dyn CounterStore>,
}

impl Counting {
    async fn new(backend: &dyn Counts) -> Result<Self, Breach> {
        Ok(Self { run: Run::new(backend).await?, store: backend.counter_store() })
    }

    async fn put(
        &self,
        name: &str,
        value: &str,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>, Breach> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        let key = self.run.key(name);
        let put = self.store.put_if_unchanged(&key, value, lease, written);
        done("a put that compares", put).await
    }

    /// The value, the revision and the lease of a key.
    async fn found(&self, name: &str) -> Result<Option<Found>, Breach> {
        let found = self.run.found(name).await?;
        Ok(found.map(|entry| (entry.value, entry.mod_revision, entry.lease)))
    }
}

type Found = (Bytes, Revision, Option<LeaseId>);

/// A put writes only what nobody has written since.
pub async fn a_put_that_compares_never_writes_over_what_came_since(
    backend: &dyn Counts,
) -> Outcome {
    let counting = Counting::new(backend).await?;
    let (run, lease) = (&counting.run, counting.run.lease);
    let sentence = Sentence::UnchangedPutObeys;
    let put = async |value, written| counting.put("a", value, lease, written).await;
    let first = put("1", None).await?;
    sentence.holds(first.is_some(), || "a key that is not there was not put".into())?;
    sentence.same(&put("late", None).await?, &None)?;
    let second = put("2", first).await?;
    sentence.holds(second > first, || format!("{second:?} came after {first:?}"))?;
    // A duplicate of the put before.
    sentence.same(&put("2", first).await?, &None)?;
    let value = async || Ok::<_, Breach>(counting.found("a").await?.map(|found| found.0));
    sentence.same(&value().await?, &Some(Bytes::from("2")))?;
    run.put("a", "of somebody else").await?;
    sentence.same(&put("3", second).await?, &None)?;
    sentence.same(&value().await?, &Some(Bytes::from("of somebody else")))?;
    // A key that was deleted was never written.
    run.delete("a").await?;
    sentence.same(&put("3", second).await?, &None)?;
    sentence.same(&value().await?, &None)?;
    let again = put("4", None).await?;
    sentence.holds(again.is_some(), || "a key that was deleted was not put".into())?;
    sentence.same(&value().await?, &Some(Bytes::from("4")))
}

/// A put answers with the revision under which its key is listed, and leaves it under the lease.
pub async fn a_put_that_compares_tells_its_revision(backend: &dyn Counts) -> Outcome {
    let counting = Counting::new(backend).await?;
    let sentence = Sentence::UnchangedPutTells;
    let lease = counting.run.grant(LONG).await?.id;
    let mut written = None;
    for value in ["1", "2"] {
        // Others write meanwhile.
        counting.run.put("b", value).await?;
        written = counting.put("a", value, lease, written).await?;
        let found = counting.found("a").await?;
        let expected = written.map(|revision| (Bytes::from(value), revision, Some(lease)));
        sentence.same(&found, &expected)?;
    }
    counting.run.revoke(lease).await?;
    sentence.same(&counting.found("a").await?, &None)
}

/// A put under a lease that is gone is refused.
pub async fn a_put_that_compares_needs_its_lease(backend: &dyn Counts) -> Outcome {
    let counting = Counting::new(backend).await?;
    let run = &counting.run;
    let sentence = Sentence::UnchangedPutNeedsLease;
    let gone = run.grant(LONG).await?.id;
    let written = counting.put("a", "1", run.lease, None).await?;
    run.revoke(gone).await?;
    for (name, written) in [("a", written), ("b", None)] {
        let key = run.key(name);
        let put = counting.store.put_if_unchanged(&key, Bytes::from("2"), gone, written);
        let put = answer("a put that compares", put).await?;
        sentence.holds(matches!(put, Err(StoreError::LeaseGone)), || {
            format!("under a lease that is gone it was answered {put:?}")
        })?;
    }
    let left = counting.found("a").await?.map(|found| (found.0, found.1));
    sentence.same(&left, &written.map(|revision| (Bytes::from("1"), revision)))?;
    sentence.same(&counting.found("b").await?, &None)
}

/// Several raise one counter; none of their steps is lost.
pub async fn puts_that_compare_and_meet_lose_no_step(backend: &dyn Counts) -> Outcome {
    in_parallel(backend).await?;
    let mut effort = Effort::begin();
    while effort.goes_on() {
        let run = Run::new(backend).await?;
        let mut all = Tasks::default();
        for _ in 0..COUNTERS {
            let counting = Counting { run: run.clone(), store: backend.counter_store() };
            all.spawn(async move {
                for _ in 0..COUNTED {
                    raise(&counting).await?;
                }
                Ok(())
            });
        }
        all.end().await?;
        let value = run.entry("a").await?.value;
        let expected = Bytes::from((COUNTERS as u64 * COUNTED).to_string());
        Sentence::UnchangedPutIsAtomic.same(&value, &expected)?;
        run.revoke(run.lease).await?;
    }
    Ok(())
}

async fn raise(counting: &Counting) -> Outcome {
    loop {
        let found = counting.found("a").await?;
        let value = found.as_ref().map_or(0, |(value, ..)| {
            str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
        });
        let written = found.map(|(_, revision, _)| revision);
        let next = (value + 1).to_string();
        if counting.put("a", &next, counting.run.lease, written).await?.is_some() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
