//! The servers of each namespace that has terms of its own, and those of all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynamo_namespace::Namespace;

use super::network::Network;
use super::terms::{Terms, key_of, networks_of, own};
use super::upstream::{Servers, Upstream};
use super::worker_key::WorkerKey;

/// All servers of a fleet.
pub(crate) struct Tenants {
    shared: Servers,
    own: BTreeMap<Namespace, Servers>,
}

impl Tenants {
    /// No servers yet, under the terms of each namespace and those that all share.
    pub(crate) fn new(
        (networks, own_networks): (&[Network], &BTreeMap<Namespace, Vec<Network>>),
        (key, own_keys): (&WorkerKey, &BTreeMap<Namespace, WorkerKey>),
    ) -> Self {
        let servers = |namespace: Option<&Namespace>| {
            Servers::new(Terms {
                networks: networks_of(networks, own_networks, namespace),
                key: key_of(key, own_keys, namespace),
            })
        };
        let named: BTreeSet<_> = own_networks.keys().chain(own_keys.keys()).collect();
        let own = named.into_iter().map(|name| (name.clone(), servers(Some(name)))).collect();
        Self { shared: servers(None), own }
    }

    /// The servers of a namespace.
    pub(super) fn servers_of(&self, namespace: &Namespace) -> &Servers {
        own(&self.own, namespace).unwrap_or(&self.shared)
    }

    /// The servers in use.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Upstream>> {
        std::iter::once(&self.shared).chain(self.own.values()).flat_map(Servers::all)
    }
}

#[cfg(test)]
impl Default for Tenants {
    fn default() -> Self {
        Self { shared: Servers::new(Terms::default()), own: BTreeMap::new() }
    }
}
