//! What an operator does at the etcd, by etcd's own client: users, and the alarm of a member without
//! space.

use std::time::Duration;

use dynamo_tests::soon;
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, ConnectOptions, Error, Permission, PermissionType,
};
use tokio::time::{sleep, timeout};

/// The user that all programs and scripts are, and its password.
pub const USER: &str = "chaos";

/// How long one call may take: a member may be about to elect a leader.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client of one member: `root`, where there are users, else nobody.
pub async fn connect(endpoint: &str) -> Result<Client, Error> {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(1))
        .with_keep_alive(Duration::from_secs(5), Duration::from_secs(2));
    let as_root = options.clone().with_user("root", "root");
    match timeout(PATIENCE, Client::connect([endpoint], Some(as_root))).await {
        Ok(Ok(client)) => Ok(client),
        // "Authentication is not enabled", or nobody answers, which the next call finds out.
        _ => Client::connect([endpoint], Some(options)).await,
    }
}

/// Switches authentication on or off. When it is on, all programs are one user, who may do what
/// they need.
pub async fn switch_auth(endpoint: &str, on: bool) {
    insist(endpoint, async |client| {
        let mut auth = client.auth_client();
        if !on {
            return auth.auth_disable().await.map(drop);
        }
        for name in ["root", USER] {
            there(auth.user_add(name, name, None).await.map(drop))?;
            there(auth.role_add(name).await.map(drop))?;
            there(auth.user_grant_role(name, name).await.map(drop))?;
        }
        let all = Permission::new(PermissionType::Readwrite, "models/").with_prefix();
        there(auth.role_grant_permission(USER, all).await.map(drop))?;
        auth.auth_enable().await.map(drop)
    })
    .await;
}

/// Raises the alarm of a member that has no space, or ends it.
pub async fn switch_no_space(endpoint: &str, raised: bool) {
    let action = if raised { AlarmAction::Activate } else { AlarmAction::Deactivate };
    insist(endpoint, async |client| {
        let mut maintenance = client.maintenance_client();
        let status = maintenance.status().await?;
        let mut member = AlarmOptions::new();
        member.with_member(status.header().map_or(0, |header| header.member_id()));
        maintenance.alarm(action, AlarmType::Nospace, Some(member)).await.map(drop)
    })
    .await;
}

/// What is there already is done.
fn there(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::GRpcStatus(status)) if status.message().contains("already") => Ok(()),
        other => other,
    }
}

/// Calls until it works.
async fn insist(endpoint: &str, call: impl AsyncFn(Client) -> Result<(), Error>) {
    soon("an operator is answered", async {
        loop {
            let called = async { call(connect(endpoint).await?).await };
            if let Ok(Ok(())) = timeout(PATIENCE, called).await {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}
