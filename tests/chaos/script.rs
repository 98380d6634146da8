//! What anyone with the right to can do at the store, and what there is, read without our parsers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{
    EtcdStore, Key, KeyRange, LeaseStore as _, MODEL_ROOT_PATH, StoreError, WatchStore as _,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::traffic::SECRET;

/// Writes as a script does, and tries again until it works.
pub async fn write(store: &EtcdStore, key: &str, value: Option<String>) {
    let key = Key::from(key);
    for _ in 0..20 {
        let written = async {
            // Of its own each time, so that nothing is deleted by a lost lease.
            let lease = store.grant(Duration::from_secs(3600)).await?.id;
            let put = value.clone().unwrap_or_default();
            store.put(&key, put.into(), lease).await?;
            if value.is_none() {
                store.delete_if_leased(&key, lease).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Ok(Ok(())) = timeout(Duration::from_secs(5), written).await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("no script can write any more");
}

/// Entries that come and go without an end, of both teams.
pub async fn churn(store: Arc<EtcdStore>) {
    let mut lease = None;
    for number in 0_u64.. {
        let (namespace, name) = [("team-a", "churn"), ("team-b", SECRET)][number as usize % 2];
        let key = Key::from(format!("{MODEL_ROOT_PATH}{namespace}-churn-{}", number % 10));
        let written = async {
            let lease = match lease {
                Some(lease) => lease,
                None => *lease.insert(store.grant(Duration::from_secs(3600)).await?.id),
            };
            store.put(&key, value(namespace, name, number).into(), lease).await?;
            if number % 3 == 0 {
                store.delete_if_leased(&key, lease).await?;
            }
            Ok::<_, StoreError>(())
        };
        if !matches!(timeout(Duration::from_secs(5), written).await, Ok(Ok(()))) {
            // A wiped store knows none of our leases.
            lease = None;
        }
        sleep(Duration::from_millis(30)).await;
    }
}

/// The value of an entry that has no server.
pub fn value(namespace: &str, model: &str, created: u64) -> String {
    json!({
        "name": model, "model_type": "Chat", "created": created,
        "endpoint": { "namespace": namespace, "component": "backend", "name": "generate" },
    })
    .to_string()
}

/// Everything that serves, by key, read without our own parsers.
pub async fn entries(store: &EtcdStore) -> Result<Vec<(String, Value)>, StoreError> {
    let snapshot = store.list(&KeyRange::prefix(MODEL_ROOT_PATH)).await?;
    let entries = snapshot.entries.iter().filter_map(|entry| {
        let value: Value = serde_json::from_slice(&entry.value).ok()?;
        let whole = value["endpoint"].is_object() && value["state"] != "draining";
        whole.then(|| (entry.key.to_string(), value))
    });
    Ok(entries.collect())
}

pub async fn instances_in(store: &EtcdStore) -> Result<BTreeSet<String>, StoreError> {
    let entries = entries(store).await?;
    Ok(entries.iter().filter_map(|(key, _)| instance_of(key)).map(str::to_owned).collect())
}

/// The instance whose entry names a URL; the first, where several do.
pub async fn instance_at(store: &EtcdStore, url: &str) -> Option<String> {
    let entries = entries(store).await.ok()?;
    let (key, _) = entries.iter().find(|(_, value)| value["url"] == url)?;
    instance_of(key).map(str::to_owned)
}

/// The instance that a native key names.
pub fn instance_of(key: &str) -> Option<&str> {
    key.split('/').nth(4)
}
