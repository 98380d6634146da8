//! The invariants that must hold under each fault, with the letters that `docs/testing.md` names.
//!
//! - **L**, listed: once the store is quiet, the known instances equal a linearizable list.
//! - **G**, no ghost: after recovery, each known instance is in that list. L implies G.
//! - **N**, isolated: no entry of another namespace is ever visible.
//! - **S**, served: the known instances serve on: no request fails, no instance is removed.
//! - **M**, monotonic: the applied revision never goes back within one generation of the store, and
//!   the set of instances is never empty in between.
//! - **R**, recovered: the program has recovered within the bound.
//! - **W**, registered: the worker is registered again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_discovery::{
    DiscoveryEvent, Instance, Key, ModelEntry, ModelUpdate, Revision, Snapshot, State,
};
use dynamo_namespace::NamespaceScope;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::wait::DEADLINE;
use crate::{Load, Program, soon};

/// Sees each event of a watcher, checks N and M at each, and records the events for later checks.
#[derive(Clone)]
pub struct Witness {
    scope: NamespaceScope,
    seen: Arc<Mutex<Seen>>,
    grown: watch::Sender<()>,
}

#[derive(Default)]
struct Seen {
    live: BTreeMap<Key, Arc<Instance>>,
    revision: Revision,
    breaches: Vec<String>,
    removed: usize,
    lists: usize,
    emptied: usize,
    link: Vec<(Instant, bool)>,
}

impl Witness {
    /// A witness for a watcher of this scope.
    pub fn of(scope: NamespaceScope) -> Self {
        Self { scope, seen: Arc::default(), grown: watch::channel(()).0 }
    }

    /// Records the next event.
    pub fn note(&self, event: &DiscoveryEvent) {
        self.seen.lock().unwrap().note(event, &self.scope);
        self.grown.send_replace(());
    }

    /// N and M: no event so far breached them.
    ///
    /// # Panics
    ///
    /// When an event did.
    pub fn assert_kept_order(&self) {
        assert_eq!(self.seen.lock().unwrap().breaches, [] as [String; 0]);
    }

    /// S: no instance was ever removed.
    ///
    /// # Panics
    ///
    /// When one was.
    pub fn assert_nothing_removed(&self) {
        assert_eq!(self.seen.lock().unwrap().removed, 0, "instances were removed");
    }

    /// M: the set of instances never became empty.
    ///
    /// # Panics
    ///
    /// When it did.
    pub fn assert_never_empty(&self) {
        assert_eq!(self.seen.lock().unwrap().emptied, 0, "the set was empty in between");
    }

    /// L and G: waits until the known instances equal a list of the store, which must be quiet.
    pub async fn agrees(&self, list: impl AsyncFn() -> Snapshot) {
        let expected = self.expected(list().await);
        let mut grown = self.grown.subscribe();
        let known = || {
            let live = &self.seen.lock().unwrap().live;
            live.iter()
                .map(|(key, it)| (key.clone(), it.entry().clone()))
                .collect::<BTreeMap<_, _>>()
        };
        while known() != expected {
            // The deadline is for the next event.
            if timeout(DEADLINE, grown.changed()).await.is_err() {
                assert_eq!(known(), expected, "what is known is what the list says");
            }
        }
    }

    /// The entries of a list, read without our catalog.
    fn expected(&self, list: Snapshot) -> BTreeMap<Key, ModelEntry> {
        let entries = list.entries.into_iter().filter_map(|entry| {
            let value = ModelEntry::from_json(&entry.value).ok()?;
            // A worker that is killed while it withdraws leaves a draining entry.
            let live = value.state() == State::Serving
                && self.scope.contains(value.endpoint().namespace());
            live.then_some((entry.key, value))
        });
        entries.collect()
    }

    /// The number of full lists, including the first one.
    pub fn lists(&self) -> usize {
        self.seen.lock().unwrap().lists
    }

    /// Waits until the link is lost after this moment, and returns when the watcher noticed it.
    pub async fn lost_after(&self, moment: Instant) -> Instant {
        self.link_after(moment, false).await
    }

    /// Waits until the watch runs again after this moment, and returns when it did.
    pub async fn resumed_after(&self, moment: Instant) -> Instant {
        self.link_after(moment, true).await
    }

    async fn link_after(&self, moment: Instant, up: bool) -> Instant {
        let mut grown = self.grown.subscribe();
        let what = if up { "the watch runs again" } else { "the loss is noticed" };
        soon(what, async {
            loop {
                let found = {
                    let seen = self.seen.lock().unwrap();
                    let mut changes = seen.link.iter();
                    changes.find(|(at, is_up)| *at >= moment && *is_up == up).map(|(at, _)| *at)
                };
                match found {
                    Some(at) => return at,
                    None => grown.changed().await.unwrap(),
                }
            }
        })
        .await
    }
}

impl Seen {
    fn note(&mut self, event: &DiscoveryEvent, scope: &NamespaceScope) {
        match event {
            DiscoveryEvent::Connected => self.link.push((Instant::now(), true)),
            DiscoveryEvent::Disconnected | DiscoveryEvent::Denied => {
                self.link.push((Instant::now(), false))
            }
            DiscoveryEvent::Batch(batch) => {
                // After a list the revision may be lower, since the store may be a new one. A page
                // of a list has no revision of its own.
                if !batch.resync && !batch.more && batch.revision <= self.revision {
                    let breach = format!("revision {} after {}", batch.revision, self.revision);
                    self.breaches.push(breach);
                }
                self.revision = batch.revision;
                self.lists += usize::from(batch.resync);
                let had_some = !self.live.is_empty();
                for update in &batch.updates {
                    self.apply(update, scope);
                }
                self.emptied += usize::from(had_some && self.live.is_empty());
            }
            other => self.breaches.push(format!("an unknown event: {other:?}")),
        }
    }

    fn apply(&mut self, update: &ModelUpdate, scope: &NamespaceScope) {
        let (key, old, new) = match update {
            ModelUpdate::Added(new) => (new.key(), None, Some(new)),
            ModelUpdate::Changed { old, new } => (old.key(), Some(old), Some(new)),
            ModelUpdate::Removed(old, _) => (old.key(), Some(old), None),
        };
        if self.live.get(key) != old {
            self.breaches.push(format!("out of turn: {update:?}"));
        }
        if let Some(new) = new
            && !scope.contains(new.endpoint().namespace())
        {
            self.breaches.push(format!("out of scope: {new:?}"));
        }
        match new {
            Some(new) => self.live.insert(key.clone(), Arc::clone(new)),
            None => {
                self.removed += 1;
                self.live.remove(key)
            }
        };
    }
}

/// S: each request so far got a 200, and further requests get their answers.
///
/// # Panics
///
/// When a request did not.
pub async fn assert_serves(load: &Load) {
    load.flows(20).await;
    assert_eq!(load.failures(), []);
}

/// W: waits until the worker has registered this number of times.
pub async fn registered(worker: &Program, times: usize) -> Instant {
    worker.says_times("registered", times).await;
    Instant::now()
}

/// R: prints the time that a recovery took beside the bound of its row, and checks the time.
///
/// The check is generous, since a busy machine with a slow disk proves nothing: it finds a recovery
/// that waits for a time-out or a long back-off instead of its event. The figures of
/// `docs/testing.md` are those that it printed on an idle machine.
///
/// # Panics
///
/// When it took longer than five times the bound and ten seconds more.
#[expect(clippy::print_stdout, reason = "the figures are read with --nocapture")]
pub fn assert_within(row: &str, what: &str, bound: Duration, took: Duration) {
    println!("row {row}: {what}: {:.2} s (bound {:.1} s)", took.as_secs_f64(), bound.as_secs_f64());
    let limit = 5 * bound + Duration::from_secs(10);
    assert!(took <= limit, "row {row}: {what} took {took:?}, the bound is {bound:?}");
}
