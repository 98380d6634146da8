//! Conditional writes, one after the other. [`races`](super::races) has those that meet.

use bytes::Bytes;

use super::run::{LONG, Run};
use super::{Backend, Outcome, Sentence};

/// A conditional put writes only what is still under the lease.
pub async fn a_conditional_put_never_writes_over_a_successor(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let sentence = Sentence::ConditionalPutObeys;
    let first = run.grant(LONG).await?.id;
    let value = async || Ok(run.found("a").await?.map(|entry| entry.value));
    let put = async |lease| run.put_if_leased("a", "draining", lease).await;

    sentence.same(&put(first).await?, &false)?;
    sentence.same(&value().await?, &None)?;
    run.put_under("a", "first", first).await?;
    sentence.same(&put(first).await?, &true)?;
    sentence.same(&value().await?, &Some(Bytes::from("draining")))?;

    run.put("a", "second").await?;
    sentence.same(&put(first).await?, &false)?;
    sentence.same(&value().await?, &Some(Bytes::from("second")))?;
    // It is still under the second lease.
    run.revoke(first).await?;
    sentence.same(&value().await?, &Some(Bytes::from("second")))?;

    // A key that was deleted is under no lease.
    run.delete("a").await?;
    sentence.same(&put(run.lease).await?, &false)?;
    sentence.same(&value().await?, &None)
}

/// A key that was put conditionally ends with its lease.
pub async fn a_conditional_put_leaves_the_key_under_its_lease(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let lease = run.grant(LONG).await?.id;
    run.put_under("a", "", lease).await?;
    let put = run.put_if_leased("a", "draining", lease).await?;
    Sentence::ConditionalPutObeys.same(&put, &true)?;
    Sentence::ConditionalPutKeepsLease.same(&run.entry("a").await?.lease, &Some(lease))?;
    run.revoke(lease).await?;
    Sentence::ConditionalPutKeepsLease.same(&run.found("a").await?, &None)
}

/// A conditional delete deletes only what is still under the lease.
pub async fn a_conditional_delete_never_deletes_a_successor(backend: &dyn Backend) -> Outcome {
    let run = Run::new(backend).await?;
    let sentence = Sentence::ConditionalDeleteObeys;
    let first = run.grant(LONG).await?.id;
    let delete = async |lease| run.delete_under("a", lease).await;

    sentence.same(&delete(first).await?, &false)?;
    run.put_under("a", "first", first).await?;
    run.put("a", "second").await?;
    sentence.same(&delete(first).await?, &false)?;
    let left = run.found("a").await?.map(|entry| entry.value);
    sentence.same(&left, &Some(Bytes::from("second")))?;

    sentence.same(&delete(run.lease).await?, &true)?;
    sentence.same(&run.found("a").await?, &None)?;
    sentence.same(&delete(run.lease).await?, &false)
}
