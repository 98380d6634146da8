//! Waiting until an etcd answers.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::{http, poll};

/// Ready is the first linearizable read that is answered: it needs a leader. Asked from outside and
/// by etcd's JSON gateway, since the image may have neither shell nor etcdctl.
pub(super) fn wait(endpoint: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let url = format!("{}/v3/kv/range", endpoint.trim_end_matches('/'));
    let any_key = json!({ "key": "AA==" });
    let event = format!("an answer from etcd at {endpoint}");
    poll::until(&event, Duration::from_secs(30), || {
        check()?;
        Ok(http::post(&url, &any_key).is_ok_and(|answer| answer.status == 200).then_some(()))
    })
}
