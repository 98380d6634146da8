//! What an operator asks of etcd beside its entries: the state of a member, and a user's permissions.

use std::sync::Arc;

use etcd_client::{AlarmAction, AlarmType, Client, Compare, CompareOp, Permission, Txn, TxnOp};

use super::EtcdStore;
use super::connection::{Clients, Connection};
use super::failure::{Failure, Meaning};
use crate::store::{Entry, Key, KeyRange, StoreError};

/// The state of one member of a cluster, as the member tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberState {
    /// The release, such as `3.5.33`.
    pub version: String,
    /// Whether the member knows a leader.
    pub has_leader: bool,
    /// The names of the cluster's alarms, such as `NOSPACE`.
    pub alarms: Vec<&'static str>,
}

/// A part of what a user's roles permit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// Whether the keys may be read.
    pub reads: bool,
    /// Whether the keys may be written.
    pub writes: bool,
    /// The first key.
    pub start: Key,
    /// The end, not part of the range; none where all later keys are permitted.
    pub end: Option<Key>,
}

impl Grant {
    /// Whether every key of the range is permitted.
    pub fn covers(&self, range: &KeyRange) -> bool {
        self.start <= *range.start() && self.end.as_ref().is_none_or(|end| range.end() <= end)
    }

    /// Whether no key outside of the range is permitted.
    pub fn is_within(&self, range: &KeyRange) -> bool {
        range.start() <= &self.start && self.end.as_ref().is_some_and(|end| end <= range.end())
    }

    fn new(permission: &Permission) -> Self {
        // etcd's numbers: 0 reads, 1 writes, 2 does both.
        let what = permission.get_type();
        let start = Key::from(permission.key());
        let end = match permission.range_end() {
            [] => Some(Key::from([permission.key(), &[0]].concat())),
            [0] => None,
            end => Some(Key::from(end)),
        };
        Self { reads: what != 1, writes: what != 0, start, end }
    }
}

impl EtcdStore {
    /// Asks the member that answers for its state.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    pub async fn member_state(&self) -> Result<MemberState, StoreError> {
        let call = |clients: Clients| async move {
            let mut maintenance = clients.client().maintenance_client();
            let status = maintenance.status().await?;
            let alarms = maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await?;
            let name = |alarm| match alarm {
                AlarmType::None => None,
                AlarmType::Nospace => Some("NOSPACE"),
                AlarmType::Corrupt => Some("CORRUPT"),
            };
            let mut alarms: Vec<_> =
                alarms.alarms().iter().filter_map(|alarm| name(alarm.alarm())).collect();
            alarms.sort_unstable();
            alarms.dedup();
            Ok(MemberState {
                version: status.version().to_owned(),
                has_leader: status.leader() != 0,
                alarms,
            })
        };
        Ok(self.connection.call(call).await?)
    }

    /// What the roles of our user permit; none without a user, and where etcd knows no users.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] or [`StoreError::Unavailable`].
    pub async fn grants(&self) -> Result<Option<Vec<Grant>>, StoreError> {
        let Some(user) = self.connection.username().map(str::to_owned) else { return Ok(None) };
        let call = |clients: Clients| grants_of(clients.client().clone(), user.clone());
        match self.connection.call(call).await {
            Err(failure) if failure.meaning() == Meaning::NoUsers => Ok(None),
            result => Ok(result.map(Some)?),
        }
    }

    /// Deletes an entry if it is still as it was read, whatever it is under, and returns whether it
    /// was. The store compares and deletes in one step.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`], [`StoreError::Full`] or [`StoreError::Unavailable`].
    pub async fn delete_if_unchanged(&self, entry: &Entry) -> Result<bool, StoreError> {
        Ok(delete_if_unchanged(&self.connection, entry).await?)
    }
}

async fn grants_of(client: Client, user: String) -> Result<Vec<Grant>, Failure> {
    let mut auth = client.auth_client();
    let mut grants = Vec::new();
    let user = auth.user_get(user).await?;
    for role in user.roles() {
        let role = auth.role_get(role.as_str()).await?;
        grants.extend(role.permissions().iter().map(Grant::new));
    }
    Ok(grants)
}

async fn delete_if_unchanged(connection: &Arc<Connection>, entry: &Entry) -> Result<bool, Failure> {
    let revision = super::to_wire(entry.mod_revision);
    let call = |mut clients: Clients| async move {
        let key = entry.key.as_bytes();
        let transaction = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
            .and_then([TxnOp::delete(key, None)]);
        Ok(clients.kv.txn(transaction).await?.succeeded())
    };
    connection.call(call).await
}

#[cfg(test)]
mod tests {
    use etcd_client::PermissionType;

    use super::*;

    #[test]
    fn a_permission_covers_its_keys_and_no_others() {
        let models = KeyRange::prefix("models/");
        let team = KeyRange::prefix("models/team-a/");
        let read = |key: &str, end: &[u8]| {
            Grant::new(&Permission::new(PermissionType::Read, key).with_range_end(end))
        };
        for (what, grant, covers_team, is_within_models) in [
            ("the same", read("models/", b"models0"), true, true),
            ("all", read("", b"\0"), true, false),
            ("all later ones", read("models/", b"\0"), true, false),
            ("one key", read("models/team-a/", b""), false, true),
            ("a neighbour's", read("models/team-b/", b"models/team-b0"), false, true),
            ("more", read("models/", b"n"), true, false),
        ] {
            assert_eq!(grant.covers(&team), covers_team, "{what}");
            assert_eq!(grant.is_within(&models), is_within_models, "{what}");
            assert_eq!((grant.reads, grant.writes), (true, false));
        }
        let write = Grant::new(&Permission::new(PermissionType::Write, "a"));
        let both = Grant::new(&Permission::new(PermissionType::Readwrite, "a"));
        assert_eq!((write.reads, write.writes), (false, true));
        assert_eq!((both.reads, both.writes), (true, true));
    }
}
