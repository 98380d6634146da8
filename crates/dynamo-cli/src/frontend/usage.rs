//! Shares what keys have used with the other frontends of a group.

use std::num::NonZeroUsize;
use std::sync::Arc;

use dynamo_discovery::{EtcdStore, UsageGroup, UsageSharing, UsageStatus};
use dynamo_http::ApiKeys;
use dynamo_http::placement::Frontends;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::settings::given::Given;
use crate::settings::scope::ScopeSettings;
use crate::settings::store::Etcd;
use crate::settings::table::Usage;
use crate::settings::usage;
use crate::settings::value::UsageStore;

/// The group that a frontend shares its counts with, if it does.
///
/// # Errors
///
/// When there is no store, no key or no name for it.
pub(super) fn group(
    given: &Given,
    scope: &ScopeSettings,
    etcd: Option<&Etcd>,
    has_keys: bool,
) -> Result<Option<UsageGroup>, Failure> {
    if *Usage::read(given)?.usage_store == UsageStore::None {
        return Ok(None);
    }
    let Some(etcd) = etcd else {
        return Err(Failure::usage(
            "--usage-store is etcd, and this frontend has none: give --etcd-endpoints",
        ));
    };
    if !has_keys {
        return Err(Failure::usage(
            "--usage-store is for the limits of API keys, and there are none: give --api-keys",
        ));
    }
    usage::group(given, &scope.scope, etcd).map(Some)
}

/// The sharing, while it runs.
pub(super) struct Sharing {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Sharing {
    /// Begins. The status goes on telling how the sharing fares, and `frontends` how many of the group
    /// live.
    pub(super) fn start(
        etcd: &Etcd,
        group: UsageGroup,
        keys: ApiKeys,
        frontends: Option<Frontends>,
    ) -> Result<(Self, Arc<UsageStatus>), Failure> {
        let store =
            EtcdStore::new(etcd.config.clone()).map_err(|error| Failure::Usage(error.into()))?;
        let sharing = UsageSharing::new(Arc::new(store), group, Arc::new(keys));
        let status = sharing.status();
        let (stop, stopped) = oneshot::channel();
        let followed = status.follow_frontends();
        let task = tokio::spawn(async move {
            let run = sharing.run(async {
                // A sender that was dropped is a stop as well.
                let _ = stopped.await;
            });
            tokio::select! {
                () = run => {}
                () = count(followed, frontends) => {}
            }
        });
        Ok((Self { stop, task }, status))
    }

    /// Writes the last counts. It takes no longer than 2 s.
    pub(super) async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Keeps the number of frontends at that of the group, for ever. A frontend that the group does not have
/// yet is alone.
async fn count(mut followed: watch::Receiver<u64>, frontends: Option<Frontends>) {
    while let Some(frontends) = &frontends
        && followed.changed().await.is_ok()
    {
        let present = usize::try_from(*followed.borrow_and_update()).unwrap_or(usize::MAX);
        frontends.set(NonZeroUsize::new(present).unwrap_or(NonZeroUsize::MIN));
    }
    std::future::pending().await
}

/// The metrics of the sharing, as text.
pub(super) fn text(status: &UsageStatus) -> String {
    let metric = |name: &str, kind: &str, help: &str, value: u64| {
        let name = format!("dynamo_frontend_{name}");
        format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
    };
    let connected = "Whether what other frontends have counted is followed";
    let frontends = "Frontends of the group that live, this one among them";
    let failures = "How often the counts of this frontend could not be written";
    [
        metric("usage_store_connected", "gauge", connected, status.connected().into()),
        metric("usage_store_frontends", "gauge", frontends, status.frontends()),
        metric("usage_store_write_failures_total", "counter", failures, status.failures()),
    ]
    .concat()
}
