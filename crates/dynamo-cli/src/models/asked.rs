//! What every verb is told: the store, the scope, the form of the output, and how workers are asked.

use dynamo_discovery::{EtcdStore, UsageGroup};
use dynamo_namespace::NamespaceScope;

use super::shelf::Shelf;
use super::table;
use super::workers::Workers;
use crate::failure::Failure;
use crate::settings::given::Given;
use crate::settings::scope::{self, ScopeSettings};
use crate::settings::store::{self, Etcd, Store};
use crate::settings::table::Shown;
use crate::settings::usage;
use crate::settings::value::EntryFormat;

/// What every verb is told.
pub(super) struct Asked {
    pub(super) etcd: Etcd,
    pub(super) scope: ScopeSettings,
    /// The group whose usage this is about, if the scope or a setting names one.
    pub(super) usage: Option<UsageGroup>,
    pub(super) format: EntryFormat,
    pub(super) workers: Workers,
}

impl Asked {
    /// # Errors
    ///
    /// When a setting is invalid.
    pub(super) fn read(given: &Given) -> Result<Self, Failure> {
        let Store::Etcd { etcd, .. } = store::read(given)? else {
            return Err(Failure::usage(
                "the backend memory lives in one process, and nobody else can look into it: give \
                 --etcd-endpoints, or leave --discovery-backend out",
            ));
        };
        let scope = scope::read(given)?;
        Ok(Self {
            usage: usage::group(given, &scope.scope, &etcd).ok(),
            etcd: *etcd,
            scope,
            format: Shown::read(given)?.output.take(),
            workers: Workers::read(given)?,
        })
    }

    /// # Errors
    ///
    /// When a file for TLS or a password cannot be read.
    pub(super) fn shelf(&self) -> Result<Shelf, Failure> {
        let store = EtcdStore::new(self.etcd.config.clone())
            .map_err(|error| Failure::Usage(error.into()))?;
        Ok(Shelf::new(store, self.etcd.root.clone(), self.scope.clone()))
    }

    /// What is said where no entry is as it was asked for: the same for one that is not there and for
    /// a neighbour's.
    pub(super) fn nothing(&self, wanted: &str) -> Failure {
        let scope = match &self.scope.scope {
            NamespaceScope::All => String::new(),
            scope => format!(" in namespace {scope}"),
        };
        Failure::Running(anyhow::anyhow!(
            "no entry {:?}{scope}: `dynamo-models list` shows those that there are",
            table::escaped(wanted)
        ))
    }
}
