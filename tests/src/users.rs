//! etcd's users and roles.

use dynamo_discovery::{Credentials, EtcdConfig};
use etcd_client::{Client, ConnectOptions, Permission, PermissionType};

use crate::Etcd;

/// The users of an etcd; `root` has all permissions. A user's password is the user's name.
pub struct Users {
    endpoint: String,
    root: Client,
}

impl Users {
    /// Enables authentication.
    pub async fn enable(etcd: &Etcd) -> Self {
        let endpoint = etcd.endpoint().to_owned();
        let mut anyone = Client::connect([&endpoint], None).await.unwrap();
        anyone.user_add("root", "root", None).await.unwrap();
        anyone.role_add("root").await.unwrap();
        anyone.user_grant_role("root", "root").await.unwrap();
        anyone.auth_enable().await.unwrap();
        let options = ConnectOptions::new().with_user("root", "root");
        let root = Client::connect([&endpoint], Some(options)).await.unwrap();
        Self { endpoint, root }
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
    #[must_use]
    pub fn config(&self, name: &str) -> EtcdConfig {
        EtcdConfig::new([self.endpoint.clone()]).with_credentials(Credentials::new(name, name))
    }
}
