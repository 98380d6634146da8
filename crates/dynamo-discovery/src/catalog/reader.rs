//! One entry after the other, read by the rules of a catalog.

use std::sync::Arc;

use dynamo_namespace::NamespaceScope;

use super::update::Refused;
use super::verdict::{Judge, Unfit, Verdict};
use crate::instance::Instance;
use crate::network_prefix::NetworkPrefix;
use crate::store::Entry;

/// Reads single entries by the rules of a [`Catalog`](crate::Catalog), for whoever shows a store as it
/// lies. A catalog does not show the entries that it does not serve.
///
/// ```
/// use dynamo_discovery::{Entry, EntryReader, Kind, ModelEntry, NetworkPrefix, ReadEntry, Revision};
/// use dynamo_namespace::NamespaceScope;
///
/// let scope = NamespaceScope::from_target(Some("team-a"))?;
/// let mut reader = EntryReader::new(NetworkPrefix::default(), scope);
/// let value = ModelEntry::new("m", "team-b.backend.generate".parse()?, Kind::Chat.into())?;
/// let neighbour = Entry {
///     key: "models/team-b/backend/generate/1/m".into(),
///     value: value.to_json(),
///     mod_revision: Revision(7),
///     lease: None,
/// };
/// assert!(matches!(reader.read(neighbour), ReadEntry::OutOfScope));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct EntryReader {
    judge: Judge,
}

/// What an entry is to a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadEntry {
    /// It is valid and in scope: serving, or draining.
    Valid(Arc<Instance>),
    /// It is refused. Where [`Refused::namespace`] is none, nobody knows whose it is.
    Refused(Refused),
    /// It is of another namespace, or not below the root. Nothing else about it is told.
    OutOfScope,
}

impl EntryReader {
    /// Reads the entries below `root`, for a scope.
    pub fn new(root: NetworkPrefix, scope: NamespaceScope) -> Self {
        Self { judge: Judge::new(root, scope) }
    }

    /// Reads an entry.
    pub fn read(&mut self, entry: Entry) -> ReadEntry {
        match self.judge.verdict(entry, &mut Vec::new()) {
            Verdict::Live(instance) | Verdict::Not(Unfit::Draining(instance)) => {
                ReadEntry::Valid(instance)
            }
            Verdict::Not(Unfit::OutOfScope) => ReadEntry::OutOfScope,
            Verdict::Not(Unfit::Refused(refused)) => ReadEntry::Refused(*refused),
        }
    }
}
