//! A watch: proven when it begins, whole revisions while it lasts.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::connection::{Clients, Connection};
use super::failure::{Failure, Meaning};
use super::{entry, first_key, to_revision, to_wire};
use crate::store::{Change, Cursor, Key, KeyRange, Revision, StoreError, WatchItem};

/// When a quiet watch asks whether etcd is there: early enough for an answer within the 5 seconds
/// of [`WatchItem::Alive`].
const ASK_AFTER: Duration = Duration::from_secs(4);

// `mvccpb.Event.EventType` (https://github.com/etcd-io/etcd/blob/main/api/mvccpb/kv.proto), read as
// numbers: the client panics on one that it does not know.
const PUT: i32 = 0;
const DELETE: i32 = 1;

/// Opens a watch after a cursor that is proven to be of this store's history.
pub(super) async fn open(
    connection: Arc<Connection>,
    range: &KeyRange,
    after: &Cursor,
) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, Failure> {
    let (stream, clients) = match connection.call(|clients| begin(clients, range, after)).await {
        // Before 3.4.20 and 3.5.5 etcd says so of an expired token, too. Any other call tells the
        // two apart, and gets a new token.
        Err(failure @ Failure::Canceled { .. }) if failure.meaning() == Meaning::Denied => {
            connection.call(|clients| touch(clients, range)).await?;
            connection.call(|clients| begin(clients, range, after)).await?
        }
        begun => begun?,
    };
    // Only now: were the store replaced after the proof, it would have taken the watch along.
    connection.call(|clients| prove_anchor(clients, after)).await?;
    let watch = Watch {
        connection,
        clients,
        stream,
        ask_at: Instant::now() + ASK_AFTER,
        last: after.revision,
        changes: Vec::new(),
    };
    let items = stream::try_unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Ok(Some((item, watch)))
    });
    Ok(items.boxed())
}

/// Asks for a watch and reads the first answer, which says whether there is one.
async fn begin(
    mut clients: Clients,
    range: &KeyRange,
    after: &Cursor,
) -> Result<(WatchStream, Clients), Failure> {
    let options = WatchOptions::new()
        .with_range(range.end().as_bytes())
        .with_start_revision(to_wire(after.revision).saturating_add(1))
        .with_fragment();
    let mut stream = clients.watch.watch(first_key(range), Some(options)).await?;
    let answer = live(stream.message().await?)?;
    let reached = answer.header().map(|header| to_revision(header.revision()));
    if !answer.created() || reached.is_none() {
        return Err(Failure::Broken("etcd did not say that it has created the watch"));
    }
    // From a revision that is not reached yet, a watch would stay silent until it is.
    if reached < Some(after.revision) {
        return Err(Failure::Replaced);
    }
    Ok((stream, clients))
}

/// Reads next to nothing of the range.
async fn touch(mut clients: Clients, range: &KeyRange) -> Result<(), Failure> {
    let options =
        GetOptions::new().with_range(range.end().as_bytes()).with_limit(1).with_keys_only();
    clients.kv.get(first_key(range), Some(options)).await?;
    Ok(())
}

async fn prove_anchor(mut clients: Clients, after: &Cursor) -> Result<(), Failure> {
    let Some((key, written)) = &after.anchor else { return Ok(()) };
    let options = GetOptions::new().with_revision(to_wire(after.revision)).with_keys_only();
    let answer = clients.kv.get(key.as_bytes(), Some(options)).await?;
    let found = answer.kvs().first().map(|kv| to_revision(kv.mod_revision()));
    if found == Some(*written) { Ok(()) } else { Err(Failure::Replaced) }
}

/// An open watch. Dropping it cancels it at the server: nothing else holds the stream.
struct Watch {
    connection: Arc<Connection>,
    clients: Clients,
    stream: WatchStream,
    ask_at: Instant,
    /// The last revision in `changes`, or the last that was delivered.
    last: Revision,
    /// The fragments so far of what must be delivered as a whole.
    changes: Vec<Change>,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            let answer = tokio::select! {
                answer = self.stream.message() => answer,
                () = sleep_until(self.ask_at) => {
                    self.ask_at = Instant::now() + ASK_AFTER;
                    // Where nothing can be sent any more, the stream ends by itself.
                    let _ = self.stream.request_progress().await;
                    continue;
                }
            };
            self.ask_at = Instant::now() + ASK_AFTER;
            return self.read(answer).map_err(|failure| {
                self.connection.blame(self.clients.number, &failure);
                failure.into()
            });
        }
    }

    fn read(
        &mut self,
        answer: Result<Option<WatchResponse>, etcd_client::Error>,
    ) -> Result<WatchItem, Failure> {
        let WatchResponse(answer) = live(answer?)?;
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            self.last = to_revision(kv.mod_revision);
            match event.r#type {
                PUT => self.changes.push(Change::Put(entry(kv))),
                DELETE => self.changes.push(Change::Delete(Key::from(kv.key))),
                other => debug!(r#type = other, "etcd sent an event of an unknown type"),
            }
        }
        // An answer without events is one to a request for progress. Its revision is not used:
        // events before it may still come (seen on 3.4.23).
        if answer.fragment || self.changes.is_empty() {
            return Ok(WatchItem::Alive);
        }
        Ok(WatchItem::Batch { revision: self.last, changes: std::mem::take(&mut self.changes) })
    }
}

/// An answer that does not say that the watch is over.
fn live(answer: Option<WatchResponse>) -> Result<WatchResponse, Failure> {
    let answer = answer.ok_or(Failure::Broken("etcd ended the watch"))?;
    // A canceled watch stays open and silent, also one that was canceled when it was created.
    if answer.canceled() {
        return Err(Failure::Canceled {
            compacted: answer.compact_revision() != 0,
            reason: answer.cancel_reason().to_owned(),
        });
    }
    Ok(answer)
}
