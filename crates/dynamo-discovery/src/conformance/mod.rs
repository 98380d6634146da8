//! What every store must do: the contract of [`WatchStore`] and [`LeaseStore`], as tests that a
//! backend runs against itself.
//!
//! The contract consists of [sentences](Sentence). Each case checks some of them, and a case that
//! fails names the one that the store breaks. The repository's own tests run the suite on many
//! stores that each break one sentence on purpose, and expect its name.
//!
//! # How to run it
//!
//! Implement [`Backend`] for a type that holds one store, and let
//! [`conformance_tests!`](crate::conformance_tests) write the tests. `examples/own_store.rs` has a
//! whole store with its tests.
//!
//! ```
//! # use std::sync::Arc;
//! # use dynamo_discovery::{LeaseStore, MemoryStore, WatchStore, conformance::Backend};
//! struct Memory(MemoryStore);
//!
//! impl Backend for Memory {
//!     fn watch_store(&self) -> Arc<dyn WatchStore> {
//!         Arc::new(self.0.clone())
//!     }
//!     fn lease_store(&self) -> Arc<dyn LeaseStore> {
//!         Arc::new(self.0.clone())
//!     }
//!     fn root(&self) -> &str {
//!         "conformance/"
//!     }
//! }
//!
//! dynamo_discovery::conformance_tests!(
//!     #[tokio::test]
//!     Memory(MemoryStore::new())
//! );
//! dynamo_discovery::conformance_tests!(
//!     races,
//!     #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
//!     Memory(MemoryStore::new())
//! );
//! ```
//!
//! | group | needs | what it tries |
//! |---|---|---|
//! | the first one, without a name | [`Backend`] | lists, watches, cursors, leases, conditional writes |
//! | `races` | [`Backend`], and a runtime of several threads | calls that meet |
//! | `counters` | [`Counts`] | puts that compare the revision |
//! | `counter_races` | [`Counts`], and a runtime of several threads | such puts that meet |
//! | `compaction` | [`Compacts`] | what a compaction may end, and what not |
//! | `outage` | [`Outage`] | a store that cannot be reached for a while |
//! | `denial` | [`Denial`] | a store that allows nothing |
//! | `space` | [`Fills`] | a store without space |
//!
//! The last four are for stores whose harness can cause such things.
//!
//! A deadline is always for one event or one answer, on tokio's clock. A store whose leases run on
//! tokio's clock, and whose calls never wait for time, can run all but the races with
//! `start_paused = true`; the suite then takes no time.
//!
//! # A store without a history
//!
//! A watch begins after a cursor, so a store needs to remember what changed since. A store that
//! remembers nothing returns `false` from [`Backend::keeps_history`]. It may then refuse each
//! cursor that is not the present with [`StoreError::Compacted`] or [`StoreError::Replaced`], which
//! make a frontend list again. It must accept the revision of a list for as long as nothing was
//! written since, or no watch could ever begin. All other sentences bind it as they bind others:
//! an open watch still delivers every change.

#[macro_use]
mod cases;
mod compaction;
mod conditional;
mod counters;
mod denial;
mod lease;
mod list;
mod outage;
mod races;
mod resume;
mod run;
mod sentence;
mod space;
mod watch;
mod watching;
mod writes;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

pub use self::compaction::*;
pub use self::conditional::*;
pub use self::counters::*;
pub use self::denial::*;
pub use self::lease::*;
pub use self::list::*;
pub use self::outage::*;
pub use self::races::*;
pub use self::resume::*;
pub use self::sentence::{Breach, Outcome, Sentence};
pub use self::space::*;
pub use self::watch::*;
pub use self::writes::*;
use crate::counter_store::CounterStore;
#[cfg(doc)]
use crate::store::StoreError;
use crate::store::{LeaseStore, WatchStore};

/// A store under test.
pub trait Backend: Send + Sync {
    /// A new handle to the store, as a frontend has one. What two handles share should be the store
    /// and nothing else, since frontends are on different machines.
    fn watch_store(&self) -> Arc<dyn WatchStore>;

    /// A new handle to the same store, as a worker has one.
    fn lease_store(&self) -> Arc<dyn LeaseStore>;

    /// Where this run may write: a prefix that ends with a slash and that no other run uses.
    fn root(&self) -> &str;

    /// Whether a watch can begin after a cursor that is not the present.
    ///
    /// `true` unless overridden.
    fn keeps_history(&self) -> bool {
        true
    }

    /// How many entries a list must have so that the store reads it in several pages.
    ///
    /// 10,200 unless overridden, which suits a store that reads up to 5000 at once.
    fn several_pages(&self) -> usize {
        10_200
    }
}

/// A store for frontends that count together.
pub trait Counts: Backend {
    /// A new handle to the same store, as a frontend that counts has one.
    fn counter_store(&self) -> Arc<dyn CounterStore>;
}

/// A store whose history can be compacted on purpose.
#[async_trait]
pub trait Compacts: Backend {
    /// Compacts everything up to the last revision. No other run may be under way.
    async fn compact(&self);
}

/// A store that can be cut off on purpose.
#[async_trait]
pub trait Outage: Backend {
    /// Cuts all handles and open watches off from the store, or lets the handles reach it again.
    /// The store itself goes on meanwhile.
    async fn set_reachable(&self, reachable: bool);
}

/// A store that can be made to deny access on purpose.
#[async_trait]
pub trait Denial: Backend {
    /// Denies all handles every access, or allows it again.
    async fn set_allowed(&self, allowed: bool);
}

/// A store whose space can be used up on purpose.
#[async_trait]
pub trait Fills: Backend {
    /// Leaves the store no space for anything new, or gives it space again.
    async fn set_full(&self, full: bool);
}

/// A case of the suite, for those who run it by other means than
/// [`conformance_tests!`](crate::conformance_tests).
#[derive(derive_more::Debug)]
#[debug("Case({name})")]
pub struct Case<B: ?Sized> {
    name: &'static str,
    run: for<'a> fn(&'a B) -> BoxFuture<'a, Outcome>,
}

impl<B: ?Sized> Case<B> {
    /// The sentence that it proves, in snake case.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it on a store that no other case has used.
    ///
    /// # Errors
    ///
    /// A sentence that the store breaks.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio, and a race on a runtime of one thread.
    pub async fn run(&self, backend: &B) -> Outcome {
        (self.run)(backend).await
    }
}

macro_rules! group {
    ($(#[$doc:meta])* $group:ident: $backend:ident; $($case:ident)+) => {
        $(#[$doc])*
        pub const $group: &[Case<dyn $backend>] = &[$(
            Case { name: stringify!($case), run: |backend| Box::pin($case(backend)) }
        ),+];
    };
}

__conformance_cases! { basic [group] #[doc = "The cases for every store."] CASES: Backend; }
__conformance_cases! { races [group] #[doc = "Calls that meet."] RACES: Backend; }
__conformance_cases! { counters [group] #[doc = "Puts that compare the revision."] COUNTERS: Counts; }
__conformance_cases! { counter_races [group] #[doc = "Such puts that meet."] COUNTER_RACES: Counts; }
__conformance_cases! { compaction [group] #[doc = "Compactions."] COMPACTION: Compacts; }
__conformance_cases! { outage [group] #[doc = "Outages."] OUTAGE: Outage; }
__conformance_cases! { denial [group] #[doc = "Denials."] DENIAL: Denial; }
__conformance_cases! { space [group] #[doc = "Want of space."] SPACE: Fills; }

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 12] = [
        include_str!("list.rs"),
        include_str!("watch.rs"),
        include_str!("resume.rs"),
        include_str!("lease.rs"),
        include_str!("conditional.rs"),
        include_str!("writes.rs"),
        include_str!("races.rs"),
        include_str!("counters.rs"),
        include_str!("compaction.rs"),
        include_str!("outage.rs"),
        include_str!("denial.rs"),
        include_str!("space.rs"),
    ];

    fn names<B: ?Sized>(cases: &[Case<B>]) -> Vec<&'static str> {
        cases.iter().map(Case::name).collect()
    }

    #[test]
    fn every_case_is_in_one_group() {
        let lines = FILES.iter().flat_map(|file| file.lines());
        let cases = lines.filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next());
        let mut cases: Vec<_> = cases.collect();
        let basic = [names(CASES), names(RACES)].concat();
        let provoked = [names(COMPACTION), names(OUTAGE), names(DENIAL), names(SPACE)].concat();
        let counters = [names(COUNTERS), names(COUNTER_RACES)].concat();
        let mut grouped = [basic, provoked, counters].concat();
        cases.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(cases, grouped);
    }
}
