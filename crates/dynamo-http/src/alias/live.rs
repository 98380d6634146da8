//! The aliases of a front door as they are now.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use arc_swap::{ArcSwapOption, Guard};

use super::table::AliasTable;

/// The aliases of a front door, which can be replaced while it runs. A clone is the same set.
///
/// ```
/// use dynamo_http::{Alias, AliasTable, AliasTarget, Aliases, FrontendConfig};
///
/// let aliases = Aliases::default();
/// let config = FrontendConfig::new().with_aliases(aliases.clone());
/// aliases.replace(AliasTable::new([Alias::new("gpt-4o", [AliasTarget::new("Qwen/Qwen3-32B")])])?);
/// # let _ = config;
/// # Ok::<(), dynamo_http::InvalidAliases>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Aliases(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there is a table. Requests look here first, which costs less than a look at the table.
    any: AtomicBool,
    table: ArcSwapOption<AliasTable>,
}

impl Aliases {
    /// Replaces all aliases at once. Requests that have begun go on with those before.
    pub fn replace(&self, table: AliasTable) {
        let table = (!table.is_empty()).then(|| Arc::new(table));
        let any = table.is_some();
        self.0.table.store(table);
        self.0.any.store(any, Release);
    }

    /// The table; none where there is no alias. It must not be held for long.
    pub(crate) fn load(&self) -> Guard<Option<Arc<AliasTable>>> {
        if self.0.any.load(Acquire) { self.0.table.load() } else { Guard::from_inner(None) }
    }
}
