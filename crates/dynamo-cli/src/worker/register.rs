//! Keeps the store's entries equal to the wanted ones, through each outage of the store.

use std::mem::{self, Discriminant};
use std::time::Duration;

use dynamo_discovery::{ErrorChain, ModelEntry, Registration, RegistrationConfig, StoreError};
use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

/// How long the end may take: a store that is away delays the end of the worker by this at most.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(2);
/// The part of it that a call gets which runs when the worker is stopped.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Whether a worker offers its models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offering {
    /// It does.
    Open,
    /// It was told to drain, and offers nothing until it is told otherwise.
    Drained,
    /// It ends.
    Stopping,
}

/// What the store holds of a worker, as the control port shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistrationReport {
    /// Whether a lease is held now.
    pub(crate) has_lease: bool,
    /// How many models were registered last. They count while the store is away.
    pub(crate) models: usize,
    /// How often the store was brought to what should be published.
    pub(crate) registrations: u64,
    /// How often that failed.
    pub(crate) failures: u64,
    /// How many leases were lost.
    pub(crate) leases_lost: u64,
}

/// Publishes, updates and publishes again until `stop`, then withdraws. Nothing is published but while
/// the offering is open; that outlives every lease.
///
/// From `stop` on, it takes [`WITHDRAW_TIMEOUT`] at most. A call to the store that runs at `stop` has
/// [`LAST_CALL`] to finish. The registration knows what a call that was dropped may have done, and
/// withdraws it as well.
pub(crate) async fn register(
    config: RegistrationConfig,
    mut wanted: watch::Receiver<Vec<ModelEntry>>,
    mut offering: watch::Receiver<Offering>,
    report: watch::Sender<RegistrationReport>,
    stop: impl Future<Output = ()>,
) {
    let stop = stop.map(|()| Instant::now()).shared();
    let mut registration: Option<Registration> = None;
    let mut retry = Retry::default();
    loop {
        let is_open = *offering.borrow_and_update() == Offering::Open;
        let entries = wanted.borrow_and_update().clone();
        let entries = if is_open { entries } else { Vec::new() };
        let (names, models) = (names(&entries), entries.len());
        let done = tokio::select! {
            done = bring(&mut registration, &config, entries) => done,
            () = stop.clone().then(|stopped| sleep_until(stopped + LAST_CALL)) => break,
        };
        report.send_modify(|report| {
            report.has_lease = registration.is_some();
            match done {
                Ok(()) => {
                    report.models = models;
                    report.registrations += u64::from(registration.is_some());
                }
                Err(_) => report.failures += 1,
            }
        });
        let pause = match done {
            Ok(()) => {
                retry = Retry::default();
                match &registration {
                    Some(_) if names.is_empty() => info!("no model is registered now"),
                    Some(_) => info!(models = names, "registered"),
                    None => {}
                }
                None
            }
            Err(StoreError::LeaseGone) => {
                registration = None;
                report.send_modify(RegistrationReport::lose_lease);
                Some(retry.again())
            }
            Err(error) => Some(retry.failed(&error)),
        };
        let lost = registration.as_ref().map(Registration::lost);
        tokio::select! {
            _ = stop.clone() => break,
            changed = wanted.changed() => if changed.is_err() { break },
            Ok(()) = offering.changed() => {}
            () = resolve(lost) => {
                info!("publishing again");
                registration = None;
                report.send_modify(RegistrationReport::lose_lease);
            }
            () = resolve(pause.map(sleep)) => {}
        }
    }
    if let Some(registration) = registration {
        // Without a stop, the wanted entries have no writer any more.
        let began = stop.peek().copied().unwrap_or_else(Instant::now);
        let left = WITHDRAW_TIMEOUT.saturating_sub(began.elapsed());
        match registration.withdraw_within(left).await {
            Ok(()) => info!("withdrawn"),
            Err(error) => warn!(error = %chain(&error), "not withdrawn; the lease will end it"),
        }
    }
}

impl RegistrationReport {
    fn lose_lease(&mut self) {
        self.has_lease = false;
        self.leases_lost += 1;
    }
}

/// Brings the store to these entries.
///
/// The lease comes first and is kept when a put fails: the registration then still knows what the store
/// may have got.
async fn bring(
    registration: &mut Option<Registration>,
    config: &RegistrationConfig,
    entries: Vec<ModelEntry>,
) -> Result<(), StoreError> {
    let registration = match registration {
        None if entries.is_empty() => return Ok(()),
        None => registration.insert(Registration::publish(config.clone(), Vec::new()).await?),
        Some(registration) => registration,
    };
    registration.update(entries).await
}

/// Waits for the future; `None` is pending for ever.
async fn resolve<F: Future<Output = ()>>(future: Option<F>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn names(entries: &[ModelEntry]) -> String {
    let names: Vec<_> = entries.iter().map(ModelEntry::name).collect();
    names.join(", ")
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    crate::failure::one_line(&ErrorChain(error).to_string())
}

/// The wait before the next try, and the failure that was logged last.
#[derive(Debug, Default)]
struct Retry {
    tries: u32,
    /// The kind of the failure that was logged; a failure of another kind is logged as well.
    told: Option<Discriminant<StoreError>>,
}

impl Retry {
    const LONGEST: Duration = Duration::from_secs(1);

    fn failed(&mut self, error: &StoreError) -> Duration {
        let kind = Some(mem::discriminant(error));
        let error = chain(error);
        if mem::replace(&mut self.told, kind) == kind {
            debug!(error, "cannot register");
        } else {
            warn!(error, "cannot register, trying again until it works");
        }
        self.again()
    }

    /// The next wait: it doubles from 50 ms to a second, with jitter.
    fn again(&mut self) -> Duration {
        let span = Duration::from_millis(50) * 2_u32.pow(self.tries.min(5));
        self.tries += 1;
        span.min(Self::LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dynamo_discovery::{Gone, Kind, MemoryStore, ModelUpdate, ModelWatcher};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    struct Running {
        store: MemoryStore,
        wanted: watch::Sender<Vec<ModelEntry>>,
        offering: watch::Sender<Offering>,
        report: watch::Receiver<RegistrationReport>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
        watcher: ModelWatcher,
    }

    fn start(store: MemoryStore) -> Running {
        let (wanted, receiver) = watch::channel(Vec::new());
        let (stop, stopped) = oneshot::channel();
        let (offering, offered) = watch::channel(Offering::Open);
        let (reports, report) = watch::channel(RegistrationReport::default());
        let config = RegistrationConfig::new(Arc::new(store.clone()));
        let task = tokio::spawn(register(config, receiver, offered, reports, async {
            let _ = stopped.await;
        }));
        let watcher = ModelWatcher::watch(Arc::new(store.clone()), Some("a")).unwrap();
        Running { store, wanted, offering, report, stop, task, watcher }
    }

    fn entry(name: &str) -> ModelEntry {
        let endpoint = "a.backend.generate".parse().unwrap();
        ModelEntry::new(name, endpoint, Kind::Chat.into()).unwrap()
    }

    /// The changes that a frontend sees next: `+name`, `~name`, or `-name` and the reason.
    async fn next(watcher: &mut ModelWatcher) -> Vec<String> {
        let told = timeout(Duration::from_secs(600), async {
            loop {
                let batch = watcher.next_batch().await;
                if !batch.updates.is_empty() {
                    return batch.updates;
                }
            }
        });
        let shown = |update: ModelUpdate| match update {
            ModelUpdate::Added(new) => format!("+{}", new.model()),
            ModelUpdate::Changed { new, .. } => format!("~{}", new.model()),
            ModelUpdate::Removed(old, Gone::Withdrawn) => format!("-{} withdrawn", old.model()),
            ModelUpdate::Removed(old, _) => format!("-{} vanished", old.model()),
        };
        told.await.expect("in time").into_iter().map(shown).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_is_registered_and_what_is_not_any_more_is_withdrawn() {
        let Running { wanted, stop, task, mut watcher, .. } = start(MemoryStore::new());
        for (names, seen) in [
            (&["m"][..], "+m"),
            (&["m", "m-lora"], "+m-lora"),
            (&["m-lora"], "-m withdrawn"),
            (&[], "-m-lora withdrawn"),
            (&["m"], "+m"),
        ] {
            wanted.send_replace(names.iter().map(|name| entry(name)).collect());
            assert_eq!(next(&mut watcher).await, [seen]);
        }
        stop.send(()).unwrap();
        assert_eq!(next(&mut watcher).await, ["-m withdrawn"]);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_store_is_outlived_from_the_start() {
        let store = MemoryStore::new();
        store.set_available(false);
        let mut running = start(store);
        running.wanted.send_replace(vec![entry("m")]);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!running.task.is_finished());
        running.store.set_available(true);
        assert_eq!(next(&mut running.watcher).await, ["+m"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_lease_is_replaced_and_the_same_keys_are_written_again() {
        let mut running = start(MemoryStore::new());
        running.wanted.send_replace(vec![entry("m")]);
        assert_eq!(next(&mut running.watcher).await, ["+m"]);
        let keys = || async {
            let range = dynamo_discovery::KeyRange::prefix("models/");
            let snapshot =
                dynamo_discovery::WatchStore::list(&running.store, &range).await.unwrap();
            snapshot.entries.into_iter().map(|entry| (entry.key, entry.value)).collect::<Vec<_>>()
        };
        let (before, revision) = (keys().await, running.store.revision());
        assert_eq!(before.len(), 1);
        running.store.set_available(false);
        tokio::time::sleep(Duration::from_secs(60)).await;
        running.store.set_available(true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(keys().await, before);
        assert!(running.store.revision() > revision, "the lease had ended meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_drained_is_withdrawn_and_stays_so_over_lost_leases() {
        let mut running = start(MemoryStore::new());
        running.wanted.send_replace(vec![entry("m")]);
        assert_eq!(next(&mut running.watcher).await, ["+m"]);
        running.offering.send_replace(Offering::Drained);
        assert_eq!(next(&mut running.watcher).await, ["-m withdrawn"]);
        running.report.wait_for(|report| report.models == 0).await.unwrap();

        let revision = running.store.revision();
        running.store.set_available(false);
        running.report.wait_for(|report| report.leases_lost == 1).await.unwrap();
        running.store.set_available(true);
        // What is found meanwhile is not published either.
        running.wanted.send_replace(vec![entry("m"), entry("n")]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(running.store.revision(), revision, "nothing is written");

        running.offering.send_replace(Offering::Open);
        let mut seen = next(&mut running.watcher).await;
        if seen.len() == 1 {
            seen.extend(next(&mut running.watcher).await);
        }
        assert_eq!(seen, ["+m", "+n"]);
        let report = *running.report.wait_for(|report| report.models == 2).await.unwrap();
        assert!(report.has_lease && report.leases_lost == 1, "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_stopped_while_the_store_is_away() {
        let running = start(MemoryStore::new());
        running.wanted.send_replace(vec![entry("m")]);
        running.store.set_available(false);
        tokio::time::sleep(Duration::from_secs(60)).await;
        running.stop.send(()).unwrap();
        timeout(Duration::from_secs(5), running.task).await.expect("in time").unwrap();
    }
}
