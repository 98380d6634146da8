//! The etcd backend.

mod config;
mod connection;
mod failure;
mod inspect;
mod password;
#[cfg(feature = "etcd-tls")]
mod tls;
mod transaction;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::proto::PbKeyValue;
use etcd_client::{GetOptions, KeyValue};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

pub use self::config::{Credentials, EtcdConfig, EtcdConfigError};
use self::connection::{Clients, Connection};
use self::failure::{Failure, Meaning};
pub use self::inspect::{Grant, MemberState};
pub use self::password::Password;
#[cfg(feature = "etcd-tls")]
pub use self::tls::{ClientIdentity, Tls};
use crate::counter_store::CounterStore;
use crate::store::{
    Cursor, Entry, Key, KeyRange, Lease, LeaseId, LeaseStore, LeasedWrite, Listing, Page, Revision,
    Snapshot, StoreError, WatchItem, WatchStore,
};

/// How many entries the first page of a list has, unless an earlier page of this size was too slow.
const FIRST_PAGE: usize = 5_000;
/// A page of so few entries is not made smaller when it takes too long: its size is not the cause.
const SMALLEST_PAGE: usize = 50;
/// How many entries a page has at most. For a page etcd looks at every key that is left, so few large
/// ones cost it less; from this size on, nothing more was gained.
const LARGEST_PAGE: usize = 20_000;
/// How many bytes a page is to have, as far as the one before tells.
const PAGE_BYTES: usize = 8 << 20;
/// For which part of the longest call a page that is larger than the first may take, as far as the
/// one before tells.
const PAGE_TIME: u32 = 4;
/// How many entries of a page are handed on together.
const PART: usize = 2_500;

/// How often a list is begun at most because etcd has compacted the revision that it was read at.
const LIST_ATTEMPTS: usize = 3;

/// A store in etcd, from release 3.4 on.
///
/// It connects with the first call and, after a failure, with the next one: to the endpoint that
/// answers first. A call takes no longer than [`EtcdConfig::with_call_timeout`], and as long again when it
/// has to connect; a list is one call for every 5000 to 20,000 entries, or every 8 MiB of them.
///
/// What etcd said is the source of a [`StoreError`].
#[derive(Debug)]
pub struct EtcdStore {
    connection: Arc<Connection>,
    first_page: Arc<AtomicUsize>,
}

impl EtcdStore {
    /// A store at these endpoints. Nothing is connected yet; files for TLS are read.
    ///
    /// # Errors
    ///
    /// When an endpoint or a file cannot be used.
    pub fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let connection = Arc::new(Connection::new(config)?);
        Ok(Self { connection, first_page: Arc::new(AtomicUsize::new(FIRST_PAGE)) })
    }
}

/// To whoever reads a list.
type Reader = mpsc::Sender<Result<Page, StoreError>>;
/// Nobody reads the list any more.
type Unread = mpsc::error::SendError<Result<Page, StoreError>>;

/// A page as it came.
struct Fetched {
    kvs: Vec<KeyValue>,
    more: bool,
}

/// Reads a range page by page, at the revision of the first.
struct Pages {
    connection: Arc<Connection>,
    start: Vec<u8>,
    end: Key,
    /// 0 is the latest, before the first page.
    revision: Revision,
    size: usize,
    /// The size that the next list begins with.
    first_page: Arc<AtomicUsize>,
}

impl Pages {
    fn new(store: &EtcdStore, range: &KeyRange) -> Self {
        Self {
            connection: Arc::clone(&store.connection),
            start: first_key(range),
            end: range.end().clone(),
            revision: Revision(0),
            size: store.first_page.load(Ordering::Relaxed),
            first_page: Arc::clone(&store.first_page),
        }
    }

    async fn next(&mut self) -> Result<Fetched, Failure> {
        loop {
            match self.read().await {
                Err(failure) if failure.meaning() == Meaning::TooLarge && self.size > 1 => {
                    self.begin_with(self.size / 2);
                }
                // The next read looks for an endpoint first, and ends this where none answers.
                Err(failure) if failure.is_silence() && self.size > SMALLEST_PAGE => {
                    self.begin_with(self.size / 2);
                    debug!(size = self.size, "a page of a list took too long: asking for less");
                }
                page => return page,
            }
        }
    }

    /// The page and the next list have this size; a later page may show that more is possible.
    fn begin_with(&mut self, size: usize) {
        self.size = size;
        self.first_page.store(size.min(FIRST_PAGE), Ordering::Relaxed);
    }

    /// Hands on a page and all that follow, each while the next one is read.
    async fn hand_on_from(mut self, first: Fetched, reader: &Reader) -> Result<(), Unread> {
        let mut page = first;
        while page.more {
            let (handed_on, next) = tokio::join!(hand_on(page, reader), self.next());
            handed_on?;
            page = match next {
                Ok(next) => next,
                Err(failure) => return reader.send(Err(failure.into())).await,
            };
        }
        hand_on(page, reader).await
    }

    async fn read(&mut self) -> Result<Fetched, Failure> {
        let call = |mut clients: Clients| {
            let options = GetOptions::new()
                .with_range(self.end.as_bytes())
                .with_revision(to_wire(self.revision))
                .with_limit(self.size as i64);
            let start = self.start.as_slice();
            async move { Ok(clients.kv.get(start, Some(options)).await?) }
        };
        let began = Instant::now();
        let mut answer = self.connection.call(call).await?;
        if self.revision == Revision(0) {
            let header = answer.header().ok_or(Failure::Broken("etcd told no revision"))?;
            self.revision = to_revision(header.revision());
        }
        let kvs = answer.take_kvs();
        match kvs.last() {
            Some(last) => {
                self.start = [last.key(), &[0]].concat();
                let bytes = kvs.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
                let longest = self.connection.call_timeout();
                self.begin_with(size_after(kvs.len(), bytes, began.elapsed(), longest));
            }
            None if answer.more() => {
                return Err(Failure::Broken("etcd told of more and of nothing"));
            }
            None => {}
        }
        Ok(Fetched { kvs, more: answer.more() })
    }
}

#[async_trait]
impl WatchStore for EtcdStore {
    async fn list(&self, range: &KeyRange) -> Result<Snapshot, StoreError> {
        let mut attempts = LIST_ATTEMPTS;
        loop {
            attempts -= 1;
            match self.list_pages(range).await?.collect().await {
                Err(StoreError::Compacted) if attempts > 0 => {}
                // Not `Compacted`, which would ask for the list that just failed.
                Err(error @ StoreError::Compacted) => {
                    return Err(StoreError::Unavailable(Box::new(error)));
                }
                result => return result,
            }
        }
    }

    async fn list_pages(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        let mut pages = Pages::new(self, range);
        let first = pages.next().await?;
        let revision = pages.revision;
        let (sender, receiver) = mpsc::channel(1);
        // A task, so that etcd works on the next page while the caller works on this one. It ends
        // after the page that it reads when the caller has gone.
        tokio::spawn(async move {
            let _ = pages.hand_on_from(first, &sender).await;
        });
        let pages = stream::unfold(receiver, |mut receiver| async {
            let page = receiver.recv().await?;
            Some((page, receiver))
        });
        Ok(Listing { revision, pages: pages.boxed() })
    }

    async fn watch(
        &self,
        range: &KeyRange,
        after: &Cursor,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        Ok(watch::open(Arc::clone(&self.connection), range, after).await?)
    }
}

#[async_trait]
impl LeaseStore for EtcdStore {
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let call = |mut clients: Clients| async move {
            let answer = clients.lease.grant(seconds, None).await?;
            Ok(Lease { id: LeaseId(answer.id()), ttl: to_duration(answer.ttl()) })
        };
        Ok(self.connection.call(call).await?)
    }

    async fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        let call = |mut clients: Clients| async move {
            // The client reads the first answer itself and does not tell the TTL. That a request
            // was sent means nothing, so a second one asks, and its answer counts.
            let (mut keeper, mut answers) = clients.lease.keep_alive(lease.0).await?;
            keeper.keep_alive().await?;
            let answer = answers.message().await?;
            Ok(answer.ok_or(Failure::Broken("etcd ended the renewal"))?.ttl())
        };
        match self.connection.call(call).await {
            // A lease that is gone is answered with a TTL of 0, again and again.
            Ok(0) => Ok(None),
            Ok(ttl) => Ok(Some(to_duration(ttl))),
            Err(failure) if failure.meaning() == Meaning::LeaseGone => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn put(&self, key: &Key, value: Bytes, lease: LeaseId) -> Result<(), StoreError> {
        let put = [LeasedWrite::Put(key.clone(), value)];
        Ok(transaction::write(&self.connection, &put, lease).await.map(drop)?)
    }

    async fn put_if_leased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        let put = [LeasedWrite::PutIfLeased(key.clone(), value)];
        Ok(transaction::write(&self.connection, &put, lease).await? == [true])
    }

    async fn delete_if_leased(&self, key: &Key, lease: LeaseId) -> Result<bool, StoreError> {
        let delete = [LeasedWrite::DeleteIfLeased(key.clone())];
        Ok(transaction::write(&self.connection, &delete, lease).await? == [true])
    }

    async fn write(&self, writes: &[LeasedWrite], lease: LeaseId) -> Result<Vec<bool>, StoreError> {
        Ok(transaction::write(&self.connection, writes, lease).await?)
    }

    async fn strays(
        &self,
        keys: &[Key],
        lease: LeaseId,
    ) -> Result<Vec<(Key, Option<Entry>)>, StoreError> {
        Ok(transaction::strays(&self.connection, keys, lease).await?)
    }

    async fn put_if_unleased(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        Ok(transaction::put_if_unleased(&self.connection, key, &value, lease).await?)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let call = |mut clients: Clients| async move {
            clients.lease.revoke(lease.0).await?;
            Ok(())
        };
        match self.connection.call(call).await {
            Err(failure) if failure.meaning() == Meaning::LeaseGone => Ok(()),
            result => Ok(result?),
        }
    }
}

#[async_trait]
impl CounterStore for EtcdStore {
    async fn put_if_unchanged(
        &self,
        key: &Key,
        value: Bytes,
        lease: LeaseId,
        written: Option<Revision>,
    ) -> Result<Option<Revision>, StoreError> {
        let written = written.unwrap_or_default();
        Ok(transaction::put_if_unchanged(&self.connection, key, &value, lease, written).await?)
    }
}

/// How many entries the page is to have after one of so many entries and bytes that took so long.
fn size_after(entries: usize, bytes: usize, took: Duration, longest: Duration) -> usize {
    let per_entry = |all: u128| (all / entries.max(1) as u128).max(1);
    let in_time = (longest / PAGE_TIME).as_nanos() / per_entry(took.as_nanos());
    let in_bytes = PAGE_BYTES as u128 / per_entry(bytes as u128);
    // No time makes it smaller than it was, nor than the first one: a page that is slow whatever its
    // size would then be one of very many.
    let least = entries.min(FIRST_PAGE) as u128;
    let size = in_time.max(least).min(in_bytes).min(LARGEST_PAGE as u128);
    (size as usize).max(1)
}

/// Hands on a page in parts, so that work on the first begins soon.
async fn hand_on(page: Fetched, reader: &Reader) -> Result<(), Unread> {
    let mut left = page.kvs.into_iter();
    loop {
        let entries = left.by_ref().take(PART).map(|kv| entry(kv.0)).collect();
        let is_last = left.len() == 0;
        reader.send(Ok(Page { entries, more: page.more || !is_last })).await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Where a range begins for etcd, which knows no empty key.
fn first_key(range: &KeyRange) -> Vec<u8> {
    match range.start().as_bytes() {
        [] => vec![0],
        start => start.to_vec(),
    }
}

fn entry(kv: PbKeyValue) -> Entry {
    Entry {
        key: Key::from(kv.key),
        value: Bytes::from(kv.value),
        mod_revision: to_revision(kv.mod_revision),
        lease: to_lease(kv.lease),
    }
}

// etcd counts in `int64`, and never below zero.

fn to_revision(wire: i64) -> Revision {
    Revision(wire.try_into().unwrap_or_default())
}

/// A key without a lease says 0.
fn to_lease(wire: i64) -> Option<LeaseId> {
    (wire != 0).then_some(LeaseId(wire))
}

fn to_wire(revision: Revision) -> i64 {
    revision.0.try_into().unwrap_or(i64::MAX)
}

fn to_duration(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::error_chain::ErrorChain;

    fn store_at(endpoint: &str) -> EtcdStore {
        EtcdStore::new(EtcdConfig::new([endpoint])).unwrap()
    }

    async fn every_call_fails(store: &EtcdStore, within: Duration) -> Vec<String> {
        let range = KeyRange::prefix("models/");
        let after = Cursor { revision: Revision(1), anchor: None };
        let key = Key::from("models/a");
        let lease = LeaseId(1);
        let mut errors = Vec::new();
        for call in 0..8 {
            let begun = Instant::now();
            let error = match call {
                0 => store.list(&range).await.map(drop).unwrap_err(),
                1 => store.watch(&range, &after).await.map(drop).unwrap_err(),
                2 => store.grant(Duration::from_secs(10)).await.map(drop).unwrap_err(),
                3 => store.renew(lease).await.map(drop).unwrap_err(),
                4 => store.put(&key, Bytes::new(), lease).await.unwrap_err(),
                5 => store.put_if_leased(&key, Bytes::new(), lease).await.map(drop).unwrap_err(),
                6 => store.delete_if_leased(&key, lease).await.map(drop).unwrap_err(),
                _ => store.revoke(lease).await.unwrap_err(),
            };
            assert!(begun.elapsed() < within, "call {call} took {:?}", begun.elapsed());
            assert!(matches!(error, StoreError::Unavailable(_)), "call {call}: {error:?}");
            errors.push(ErrorChain(&error).to_string());
        }
        errors
    }

    #[test]
    fn a_page_grows_as_far_as_its_entries_and_the_time_of_a_call_allow() {
        let ms = Duration::from_millis;
        for (what, entries, bytes, took, expected) in [
            ("small and fast", 5_000, 5_000 * 300, ms(50), 20_000),
            ("small and slow", 5_000, 5_000 * 300, ms(250), 10_000),
            ("too slow to grow", 20_000, 20_000 * 300, ms(3000), FIRST_PAGE),
            ("large", 5_000, 5_000 << 13, ms(50), 1 << 10),
            ("the largest", 100, 100 << 16, ms(50), 1 << 7),
            ("huge", 1, 1 << 30, ms(50), 1),
            ("at once", 1, 0, ms(0), 20_000),
            ("none", 0, 0, ms(0), 20_000),
            ("small, since more took too long", 1_250, 1_250 * 300, ms(1500), 1_250),
            ("small, and fast again", 1_250, 1_250 * 300, ms(10), 20_000),
        ] {
            assert_eq!(size_after(entries, bytes, took, ms(2000)), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_fails_at_once_and_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let store = store_at(&format!("http://{address}"));
        for error in every_call_fails(&store, Duration::from_secs(1)).await {
            let expected = format!(
                "the store is unavailable: http://{address}: tcp connect error: Connection refused"
            );
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_fails_within_the_call_timeout() {
        // The system accepts the connection; nobody reads from it.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let config = EtcdConfig {
            endpoints: vec![endpoint.clone()],
            call_timeout: Duration::from_millis(100),
            ..EtcdConfig::default()
        };
        let store = EtcdStore::new(config).unwrap();
        for error in every_call_fails(&store, Duration::from_secs(1)).await {
            let expected = "the store is unavailable: ";
            assert!(error.starts_with(expected) && error.contains(&endpoint), "{error}");
            assert!(error.contains("etcd did not answer within 100ms"), "{error}");
        }
    }

    #[test]
    fn a_store_is_made_without_a_runtime_and_shows_no_password() {
        let credentials = Some(Credentials { username: "u".into(), password: "secret".into() });
        let store = EtcdStore::new(EtcdConfig { credentials, ..EtcdConfig::default() }).unwrap();
        assert!(!format!("{store:?}").contains("secret"));
    }
}
