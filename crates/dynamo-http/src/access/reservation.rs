//! The tokens that a request has reserved, until it is known what it used.

use std::sync::atomic::{AtomicBool, Ordering};

use super::ledger::{Amount, Held, Ledger};
use super::window::Clock;
use crate::meter::Spent;

/// The tokens that a request has reserved.
#[derive(Debug)]
pub(crate) struct Reservation {
    held: Held,
    /// The estimated tokens of the prompt.
    input: u64,
    /// Whether the request is at an engine that has not answered.
    under_way: AtomicBool,
    clock: Clock,
}

impl Reservation {
    pub(super) fn new(held: Held, input: u64, clock: Clock) -> Self {
        Self { held, input, under_way: AtomicBool::new(false), clock }
    }

    /// The estimated tokens of the prompt.
    pub(crate) fn input(&self) -> u64 {
        self.input
    }

    /// Notes whether the request is at an engine that has not answered.
    pub(crate) fn under_way(&self, is: bool) {
        self.under_way.store(is, Ordering::Relaxed);
    }

    /// What the request has used if it ends without an answer. The client of a request that is under
    /// way has left, and the engine may have read the prompt.
    pub(super) fn abandoned(&self) -> Option<Spent> {
        let spent = Spent { input: self.input, output: 0, estimated: true };
        self.under_way.load(Ordering::Relaxed).then_some(spent)
    }

    /// Replaces what was reserved by what was used.
    pub(super) fn settle(self, ledger: &Ledger, spent: Option<Spent>) {
        let used = spent.map(|spent| Amount { input: spent.input, output: spent.output });
        ledger.settle(self.held, used.unwrap_or_default(), self.clock.now());
    }
}
