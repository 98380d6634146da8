//! The line of requests that wait for a place at one server.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::priority::Priority;

#[cfg(test)]
mod tests;

/// A request that waits rises by one class each time that it has waited for so long.
const RISE: Duration = Duration::from_secs(10);

/// What decides when a request's turn comes: its class, and since when it waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rank {
    pub(crate) class: Priority,
    pub(crate) since: Instant,
}

/// A request's place in a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    class: Priority,
    order: Order,
}

/// The order in which the requests of one class came. Those of the same instant have numbers.
type Order = (Instant, u64);

/// Those who wait. The next one is the one of the highest class, after all have risen, and of several
/// the one that waits longest.
///
/// So a request of the lowest class waits at most twice [`RISE`] longer than if all were of one class,
/// however many come.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// Those of each class. The first of a class has risen most, so only the first ones are compared.
    waiting: [BTreeMap<Order, T>; Priority::ALL.len()],
    joined: u64,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: Default::default(), joined: 0 }
    }
}

impl<T> Line<T> {
    /// Joins the line. One that has waited elsewhere keeps its rank.
    pub(super) fn join(&mut self, rank: Rank, one: T) -> Ticket {
        self.joined += 1;
        let ticket = Ticket { class: rank.class, order: (rank.since, self.joined) };
        self.waiting[ticket.class as usize].insert(ticket.order, one);
        ticket
    }

    /// Leaves the line. Returns nothing when its turn has come before.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        self.waiting[ticket.class as usize].remove(&ticket.order)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(BTreeMap::is_empty)
    }

    /// Takes the one out of the line whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<T> {
        let first = |class: Priority| {
            let (order, _) = self.waiting[class as usize].first_key_value()?;
            let risen = now.saturating_duration_since(order.0).as_secs() / RISE.as_secs();
            let risen = class.raised(usize::try_from(risen).unwrap_or(usize::MAX));
            Some((risen, Reverse(*order), class))
        };
        let (.., class) = Priority::ALL.into_iter().filter_map(first).max()?;
        self.waiting[class as usize].pop_first().map(|(_, one)| one)
    }
}
