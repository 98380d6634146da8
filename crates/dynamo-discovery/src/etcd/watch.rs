//! A watch: proven when it begins, whole revisions while it lasts.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbWatchResponse;
use etcd_client::{GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::connection::{Clients, Connection};
use super::failure::{Failure, Meaning};
use super::{entry, first_key, to_lease, to_revision, to_wire};
use crate::store::{Change, Cursor, Key, KeyRange, Revision, Stamp, StoreError, WatchItem};

/// When a quiet watch asks whether etcd is there: early enough for an answer within the 5 seconds
/// of [`WatchItem::Alive`].
const ASK_AFTER: Duration = Duration::from_secs(4);

/// How long etcd has for that answer before the watch is taken for dead: all in all, a dead link is
/// noticed 6 seconds after the last word.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A timer that is so much too late says that we have slept, and nothing about etcd.
const SLEPT: Duration = Duration::from_secs(1);

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
    let begun = match connection.call(|clients| begin(clients, range, after)).await {
        // Before 3.4.20 and 3.5.5 etcd says so of an expired token, too. Any other call tells the
        // two apart, and gets a new token.
        Err(failure @ Failure::Canceled { .. }) if failure.meaning() == Meaning::Denied => {
            let key = first_key(range);
            connection.call(|clients| written(clients, &key, Revision(0))).await?;
            connection.call(|clients| begin(clients, range, after)).await?
        }
        begun => begun?,
    };
    // Only now: were the store replaced after the proof, it would have taken the watch along.
    connection.call(|clients| prove(clients, range, after, begun.reached)).await?;
    let watch = Watch {
        connection,
        clients: begun.clients,
        stream: begun.stream,
        quiet: Quiet::since(Instant::now()),
        assembly: Assembly::default(),
    };
    let items = stream::try_unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Ok(Some((item, watch)))
    });
    Ok(items.boxed())
}

/// A watch that etcd has created.
struct Begun {
    stream: WatchStream,
    clients: Clients,
    /// The revision that the member which serves the watch had reached.
    reached: Revision,
}

/// Asks for a watch and reads the first answer, which says whether there is one.
async fn begin(mut clients: Clients, range: &KeyRange, after: &Cursor) -> Result<Begun, Failure> {
    let options = WatchOptions::new()
        .with_range(range.end().as_bytes())
        .with_start_revision(to_wire(after.revision).saturating_add(1))
        .with_fragment();
    let mut stream = clients.watch.watch(first_key(range), Some(options)).await?;
    let answer = live(stream.message().await?)?;
    match answer.header() {
        Some(header) if answer.created() => {
            Ok(Begun { reached: to_revision(header.revision()), stream, clients })
        }
        _ => Err(Failure::Broken("etcd did not say that it has created the watch")),
    }
}

/// Proves that the store has reached the cursor's revision, and had the anchor then.
async fn prove(
    clients: Clients,
    range: &KeyRange,
    after: &Cursor,
    reached: Revision,
) -> Result<(), Failure> {
    match &after.anchor {
        // A read at a revision that is not reached yet is refused.
        Some((key, stamp)) => {
            let found = written(clients, key.as_bytes(), after.revision).await?;
            if found == Some(*stamp) { Ok(()) } else { Err(Failure::Replaced) }
        }
        // Another store, or a member that lags behind the one that told us the revision: a read
        // knows, since it asks the leader.
        None if reached < after.revision => {
            written(clients, &first_key(range), after.revision).await.map(drop)
        }
        None => Ok(()),
    }
}

/// What had last written a key, as of a revision; 0 is the latest.
async fn written(mut clients: Clients, key: &[u8], at: Revision) -> Result<Option<Stamp>, Failure> {
    let options = GetOptions::new().with_revision(to_wire(at)).with_keys_only();
    let answer = clients.kv.get(key, Some(options)).await?;
    let stamp = |revision, lease| Stamp { revision: to_revision(revision), lease: to_lease(lease) };
    Ok(answer.kvs().first().map(|kv| stamp(kv.mod_revision(), kv.lease())))
}

/// An open watch. Dropping it cancels it at the server: nothing else holds the stream.
struct Watch {
    connection: Arc<Connection>,
    clients: Clients,
    stream: WatchStream,
    quiet: Quiet,
    assembly: Assembly,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            let answer = tokio::select! {
                biased;
                answer = self.stream.message() => answer.map_err(Failure::from),
                () = sleep_until(self.quiet.until) => match self.quiet.over(Instant::now()) {
                    Over::Ask => {
                        // Where nothing can be sent any more, the stream ends by itself.
                        let _ = self.stream.request_progress().await;
                        continue;
                    }
                    Over::Dead => Err(Failure::Silence(ANSWER_WITHIN)),
                },
            };
            self.quiet = Quiet::since(Instant::now());
            return match answer.and_then(live) {
                Ok(answer) => Ok(self.assembly.take(answer.0)),
                Err(failure) => {
                    let origin = self.clients.origin;
                    let failure = self.connection.name(origin, failure);
                    self.connection.blame(origin, &failure);
                    Err(failure.into())
                }
            };
        }
    }
}

/// For how long a watch may still say nothing.
struct Quiet {
    until: Instant,
    asked: bool,
}

/// What to do when it is over.
#[derive(Debug, PartialEq)]
enum Over {
    Ask,
    Dead,
}

impl Quiet {
    fn since(heard: Instant) -> Self {
        Self { until: heard + ASK_AFTER, asked: false }
    }

    fn over(&mut self, now: Instant) -> Over {
        if self.asked && now < self.until + SLEPT {
            return Over::Dead;
        }
        *self = Self { until: now + ANSWER_WITHIN, asked: true };
        Over::Ask
    }
}

/// The fragments so far of what must be delivered as a whole.
#[derive(Default)]
struct Assembly {
    /// The last revision in `changes`.
    last: Revision,
    changes: Vec<Change>,
}

impl Assembly {
    /// What there is to deliver after one more answer.
    fn take(&mut self, answer: PbWatchResponse) -> WatchItem {
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
            return WatchItem::Alive;
        }
        WatchItem::Batch { revision: self.last, changes: std::mem::take(&mut self.changes) }
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

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbEvent, PbKeyValue};

    use super::*;

    fn answer(fragment: bool, events: &[(i32, &str, i64)]) -> PbWatchResponse {
        let event = |&(r#type, key, mod_revision): &(i32, &str, i64)| PbEvent {
            r#type,
            kv: Some(PbKeyValue { key: key.into(), mod_revision, ..PbKeyValue::default() }),
            prev_kv: None,
        };
        let events = events.iter().map(event).collect();
        PbWatchResponse { fragment, events, ..PbWatchResponse::default() }
    }

    /// The revision of a batch and its keys, a deleted one with a minus.
    fn told(item: WatchItem) -> Option<(u64, Vec<String>)> {
        let WatchItem::Batch { revision, changes } = item else { return None };
        let tell = |change| match change {
            Change::Put(entry) => entry.key.to_string(),
            Change::Delete(key) => format!("-{key}"),
        };
        Some((revision.0, changes.into_iter().map(tell).collect()))
    }

    #[test]
    fn fragments_are_delivered_with_the_last_of_them() {
        let mut assembly = Assembly::default();
        assert_eq!(told(assembly.take(answer(true, &[(PUT, "a", 2), (PUT, "b", 3)]))), None);
        assert_eq!(told(assembly.take(answer(true, &[(PUT, "c", 3)]))), None);
        let whole = told(assembly.take(answer(false, &[(DELETE, "a", 3)])));
        assert_eq!(whole, Some((3, ["a", "b", "c", "-a"].map(str::to_owned).to_vec())));
        let next = told(assembly.take(answer(false, &[(PUT, "d", 9)])));
        assert_eq!(next, Some((9, vec!["d".to_owned()])));
    }

    #[test]
    fn an_event_of_an_unknown_type_is_skipped_without_a_panic() {
        let mut assembly = Assembly::default();
        let mixed = told(assembly.take(answer(false, &[(7, "a", 2), (PUT, "b", 2)])));
        assert_eq!(mixed, Some((2, vec!["b".to_owned()])));
        assert_eq!(told(assembly.take(answer(false, &[(7, "a", 3)]))), None);
    }

    #[test]
    fn a_question_without_an_answer_is_the_end_but_not_for_one_who_slept_meanwhile() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut quiet = Quiet::since(start);
        assert_eq!((quiet.until, quiet.over(after(4))), (after(4), Over::Ask));
        assert_eq!((quiet.until, quiet.over(after(6))), (after(6), Over::Dead));

        let mut slept = Quiet::since(start);
        assert_eq!(slept.over(after(4)), Over::Ask);
        assert_eq!(slept.over(after(30)), Over::Ask);
        assert_eq!((slept.until, slept.over(after(32))), (after(32), Over::Dead));
    }

    #[test]
    fn an_answer_about_progress_is_a_sign_of_life_and_no_more() {
        assert_eq!(Assembly::default().take(answer(false, &[])), WatchItem::Alive);
    }

    #[test]
    fn a_canceled_watch_is_over_however_it_says_so() {
        let created_and_canceled = PbWatchResponse {
            created: true,
            canceled: true,
            cancel_reason: "etcdserver: invalid auth token".into(),
            ..PbWatchResponse::default()
        };
        let compacted =
            PbWatchResponse { canceled: true, compact_revision: 7, ..PbWatchResponse::default() };
        for (answer, meaning) in
            [(created_and_canceled, Meaning::TokenExpired), (compacted, Meaning::Compacted)]
        {
            assert_eq!(live(Some(WatchResponse(answer))).unwrap_err().meaning(), meaning);
        }
        assert_eq!(live(None).unwrap_err().meaning(), Meaning::Unavailable);
    }
}
