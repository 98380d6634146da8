//! etcd's users and roles.

use dynamo_discovery::{Credentials, EtcdConfig};
use etcd_client::{Client, Permission, PermissionType};

use crate::Etcd;

/// The users of an etcd; `root` has all permissions. A user's password is the user's name, until it is
/// changed.
pub struct Users {
    endpoint: String,
    root: Client,
}

impl Users {
    /// Enables authentication.
    pub async fn enable(etcd: &Etcd) -> Self {
        let mut users = Self::prepare(etcd).await;
        users.switch_on().await;
        users
    }

    /// Adds `root`. Authentication is not enabled: everybody may everything.
    pub async fn prepare(etcd: &Etcd) -> Self {
        let endpoint = etcd.endpoint().to_owned();
        let mut root = Client::connect([&endpoint], None).await.unwrap();
        root.user_add("root", "root", None).await.unwrap();
        root.role_add("root").await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        Self { endpoint, root }
    }

    /// Enables authentication, of those who are there.
    pub async fn switch_on(&mut self) {
        self.root.auth_enable().await.unwrap();
        self.root.update_user(Some(("root".into(), "root".into()))).await.unwrap();
    }

    /// Disables it: everybody may everything again.
    pub async fn switch_off(&mut self) {
        self.root.auth_disable().await.unwrap();
        self.root.update_user(None).await.unwrap();
    }

    /// Gives a user another password.
    pub async fn change_password(&mut self, name: &str, password: &str) {
        self.root.user_change_password(name, password).await.unwrap();
    }

    /// Ends all leases, though their owners live.
    pub async fn end_leases(&mut self) {
        for lease in self.root.leases().await.unwrap().leases() {
            self.root.lease_revoke(lease.id()).await.unwrap();
        }
    }

    /// Adds a user with a role of the same name.
    pub async fn add(&mut self, name: &str) {
        self.root.user_add(name, name, None).await.unwrap();
        self.root.role_add(name).await.unwrap();
        self.root.user_grant_role(name, name).await.unwrap();
    }

    /// Grants a user to read all keys with this prefix, and also to write them if `write`.
    pub async fn grant(&mut self, name: &str, prefix: &str, write: bool) {
        let what = if write { PermissionType::Readwrite } else { PermissionType::Read };
        let permission = Permission::new(what, prefix).with_prefix();
        self.root.role_grant_permission(name, permission).await.unwrap();
    }

    /// Revokes that permission.
    pub async fn revoke(&mut self, name: &str, prefix: &str) {
        let options = etcd_client::RoleRevokePermissionOptions::new().with_prefix();
        self.root.role_revoke_permission(name, prefix, Some(options)).await.unwrap();
    }

    /// The configuration of a client with this user's credentials.
    pub fn config(&self, name: &str) -> EtcdConfig {
        EtcdConfig::new([self.endpoint.clone()]).with_credentials(Credentials::new(name, name))
    }
}
