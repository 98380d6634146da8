//! What is written only under a condition, and what is written together.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::connection::{Clients, Connection};
use super::failure::{Failure, Meaning};
use super::{entry, to_revision, to_wire};
use crate::store::{Entry, Key, LeaseId, LeasedWrite, Revision};

/// How many operations etcd takes in one transaction by default (`--max-txn-ops` is 128). One that is
/// nested in another needs room for its own.
const MOST_OPERATIONS: usize = 127;
/// How many bytes of keys and values are sent in one transaction: etcd takes 1.5 MiB by default
/// (`--max-request-bytes`), overhead included.
const MOST_BYTES: usize = 1 << 20;

/// Does writes in order, as many together as etcd takes, and returns for each whether it was done.
pub(super) async fn write(
    connection: &Arc<Connection>,
    writes: &[LeasedWrite],
    lease: LeaseId,
) -> Result<Vec<bool>, Failure> {
    let mut done = Vec::with_capacity(writes.len());
    let mut most = MOST_OPERATIONS;
    while let rest @ [_, ..] = &writes[done.len()..] {
        let part = &rest[..part_len(rest, most)];
        match write_part(connection, part, lease).await {
            Ok(written) => done.extend(written),
            // An etcd that was told to take less.
            Err(failure) if failure.meaning() == Meaning::TooLarge && part.len() > 1 => {
                most = part.len() / 2;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(done)
}

/// How many of the writes are sent next; at least one.
fn part_len(writes: &[LeasedWrite], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |write: &&LeasedWrite| {
        bytes += match write {
            LeasedWrite::Put(key, value) | LeasedWrite::PutIfLeased(key, value) => {
                key.as_bytes().len() + value.len()
            }
            LeasedWrite::DeleteIfLeased(key) => key.as_bytes().len(),
        };
        bytes <= MOST_BYTES
    };
    writes.iter().take(most).take_while(fits).count().max(1)
}

async fn write_part(
    connection: &Arc<Connection>,
    writes: &[LeasedWrite],
    lease: LeaseId,
) -> Result<Vec<bool>, Failure> {
    let operations: Vec<_> = writes.iter().map(|write| operation(write, lease)).collect();
    let transaction = Txn::new().and_then(operations);
    match call(connection, &transaction).await {
        // Its keys went with it.
        Err(failure)
            if failure.meaning() == Meaning::LeaseGone
                && !writes.iter().any(|write| matches!(write, LeasedWrite::Put(..))) =>
        {
            Ok(vec![false; writes.len()])
        }
        Err(failure) if failure.meaning() == Meaning::NoSpace => {
            delete_one_by_one(connection, writes, lease).await.unwrap_or(Err(failure))
        }
        Err(failure) => Err(failure),
        Ok(answer) => {
            let done: Vec<_> = answer.op_responses().iter().map(was_done).collect();
            if done.len() == writes.len() {
                Ok(done)
            } else {
                Err(Failure::Broken("etcd answered fewer writes than it was asked for"))
            }
        }
    }
}

/// Does deletions where etcd has no space; none, if there is a put among them.
///
/// Without space etcd 3.5 takes no transaction, not even one that only deletes, but it takes deletions.
/// So the lease is looked at first, and a put that comes in between is deleted as well. Our own puts
/// do not come in between: a worker makes them one after the other.
async fn delete_one_by_one(
    connection: &Arc<Connection>,
    writes: &[LeasedWrite],
    lease: LeaseId,
) -> Option<Result<Vec<bool>, Failure>> {
    let key_of = |write: &LeasedWrite| match write {
        LeasedWrite::DeleteIfLeased(key) => Some(key.clone()),
        LeasedWrite::Put(..) | LeasedWrite::PutIfLeased(..) => None,
    };
    let keys: Vec<_> = writes.iter().map(key_of).collect::<Option<_>>()?;
    let delete = async |key: &Key| {
        let get = |mut clients: Clients| async move {
            let options = GetOptions::new().with_keys_only();
            Ok(clients.kv.get(key.as_bytes(), Some(options)).await?)
        };
        let found = connection.call(get).await?;
        let ours = found.kvs().first().is_some_and(|kv| kv.lease() == lease.0);
        if ours {
            let delete = |mut clients: Clients| async move {
                Ok(clients.kv.delete(key.as_bytes(), None).await?)
            };
            connection.call(delete).await?;
        }
        Ok(ours)
    };
    let mut done = Vec::with_capacity(keys.len());
    for key in &keys {
        match delete(key).await {
            Ok(deleted) => done.push(deleted),
            Err(failure) => return Some(Err(failure)),
        }
    }
    Some(Ok(done))
}

/// A write as part of a transaction. One with a condition is a transaction of its own: those of the
/// whole would have to hold for all.
fn operation(write: &LeasedWrite, lease: LeaseId) -> TxnOp {
    match write {
        LeasedWrite::Put(key, value) => put(key, value, lease),
        LeasedWrite::PutIfLeased(key, value) => if_under(key, lease.0, put(key, value, lease)),
        LeasedWrite::DeleteIfLeased(key) => {
            if_under(key, lease.0, TxnOp::delete(key.as_bytes(), None))
        }
    }
}

fn put(key: &Key, value: &Bytes, lease: LeaseId) -> TxnOp {
    let options = PutOptions::new().with_lease(lease.0);
    TxnOp::put(key.as_bytes(), value.as_ref(), Some(options))
}

/// Does it if the key is under this lease; 0 is none, and that of a key that is not there.
fn if_under(key: &Key, lease: i64, then: TxnOp) -> TxnOp {
    let condition = Compare::lease(key.as_bytes(), CompareOp::Equal, lease);
    TxnOp::txn(Txn::new().when([condition]).and_then([then]))
}

fn was_done(answer: &TxnOpResponse) -> bool {
    match answer {
        TxnOpResponse::Txn(nested) => nested.succeeded(),
        _ => true,
    }
}

/// Finds the keys that are not under a lease. Where all are, etcd answers in a word.
pub(super) async fn strays(
    connection: &Arc<Connection>,
    keys: &[Key],
    lease: LeaseId,
) -> Result<Vec<(Key, Option<Entry>)>, Failure> {
    let mut strays = Vec::new();
    for part in keys.chunks(MOST_OPERATIONS) {
        let ours = |key: &Key| Compare::lease(key.as_bytes(), CompareOp::Equal, lease.0);
        let get = |key: &Key| TxnOp::get(key.as_bytes(), None);
        let transaction = Txn::new()
            .when(part.iter().map(ours).collect::<Vec<_>>())
            .or_else(part.iter().map(get).collect::<Vec<_>>());
        let answer = call(connection, &transaction).await?;
        for (key, found) in part.iter().zip(answer.op_responses()) {
            let TxnOpResponse::Get(mut found) = found else { continue };
            let found = found.take_kvs().pop().map(|kv| entry(kv.0));
            if found.as_ref().is_none_or(|found| found.lease != Some(lease)) {
                strays.push((key.clone(), found));
            }
        }
    }
    Ok(strays)
}

/// Puts a key under a lease if it is under none.
pub(super) async fn put_if_unleased(
    connection: &Arc<Connection>,
    key: &Key,
    value: &Bytes,
    lease: LeaseId,
) -> Result<bool, Failure> {
    let transaction = Txn::new().and_then([if_under(key, 0, put(key, value, lease))]);
    let answer = call(connection, &transaction).await?;
    Ok(answer.op_responses().iter().all(was_done))
}

/// Puts a key under a lease if it was last written at this revision, which is 0 for a key that is not
/// there.
pub(super) async fn put_if_unchanged(
    connection: &Arc<Connection>,
    key: &Key,
    value: &Bytes,
    lease: LeaseId,
    written: Revision,
) -> Result<Option<Revision>, Failure> {
    let condition = Compare::mod_revision(key.as_bytes(), CompareOp::Equal, to_wire(written));
    let transaction = Txn::new().when([condition]).and_then([put(key, value, lease)]);
    let answer = call(connection, &transaction).await?;
    if !answer.succeeded() {
        return Ok(None);
    }
    let header = answer.header().ok_or(Failure::Broken("etcd told no revision"))?;
    Ok(Some(to_revision(header.revision())))
}

async fn call(connection: &Arc<Connection>, transaction: &Txn) -> Result<TxnResponse, Failure> {
    connection
        .call(|mut clients: Clients| {
            let transaction = transaction.clone();
            async move { Ok(clients.kv.txn(transaction).await?) }
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_as_many_writes_as_etcd_takes_and_at_least_one() {
        let delete = LeasedWrite::DeleteIfLeased("models/a".into());
        let large = LeasedWrite::Put("models/a".into(), vec![0; MOST_BYTES / 4].into());
        let huge = LeasedWrite::Put("models/a".into(), vec![0; MOST_BYTES].into());
        for (what, writes, most, expected) in [
            ("few", vec![delete.clone(); 3], MOST_OPERATIONS, 3),
            ("many", vec![delete.clone(); 300], MOST_OPERATIONS, MOST_OPERATIONS),
            ("less than usual", vec![delete; 300], 7, 7),
            ("large", vec![large; 8], MOST_OPERATIONS, 3),
            ("too large", vec![huge; 2], MOST_OPERATIONS, 1),
        ] {
            assert_eq!(part_len(&writes, most), expected, "{what}");
        }
    }
}
