//! How many requests may be sent a second time.
//!
//! Sending again helps when one server breaks and does harm when all of them do: then each request
//! becomes two. So what is sent again is bounded by a share of what was sent lately.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// What one request sent again costs: so small a share of a request can be deposited.
const PRICE: u64 = 100;
/// What is given each second, so that a quiet front door may send again, too: ten requests.
const EACH_SECOND: u64 = 10 * PRICE;
/// Each second, a tenth of what is left is forgotten: so it remembers about ten seconds.
const FORGOTTEN: u64 = 10;

/// What may be sent again.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    percent: u64,
    /// Apart from what is only read: every request writes it.
    balance: CachePadded<AtomicU64>,
}

impl RetryBudget {
    /// Of the requests of the last seconds, `percent` may be sent again.
    pub(crate) fn new(percent: u8) -> Self {
        Self {
            percent: percent.into(),
            balance: CachePadded::new(AtomicU64::new(10 * EACH_SECOND)),
        }
    }

    /// A request was sent.
    pub(crate) fn deposit(&self) {
        self.balance.fetch_add(self.percent * PRICE / 100, Relaxed);
    }

    /// Whether one may be sent again.
    pub(crate) fn is_left(&self) -> bool {
        self.balance.load(Relaxed) >= PRICE
    }

    /// Pays for sending one again, if that is possible.
    pub(crate) fn withdraw(&self) -> bool {
        self.balance.fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(PRICE)).is_ok()
    }

    /// A second has passed.
    pub(crate) fn age(&self) {
        let aged = |balance: u64| Some(balance - balance / FORGOTTEN + EACH_SECOND);
        // Always some, so it cannot fail.
        let _ = self.balance.fetch_update(Relaxed, Relaxed, aged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(budget: &RetryBudget) -> u64 {
        (0..).take_while(|_| budget.withdraw()).count() as u64
    }

    #[test]
    fn a_share_of_the_requests_may_be_sent_again() {
        let budget = RetryBudget::new(20);
        assert!(budget.is_left());
        spend_all(&budget);
        assert!(!budget.is_left());
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(spend_all(&budget), 20);
    }

    #[test]
    fn it_remembers_about_ten_seconds() {
        let budget = RetryBudget::new(20);
        for _ in 0..100 {
            (0..200).for_each(|_| budget.deposit());
            budget.age();
        }
        let busy = spend_all(&budget);
        assert!((400..=520).contains(&busy), "{busy} after 200 requests/s");
        for _ in 0..100 {
            budget.age();
        }
        let quiet = spend_all(&budget);
        assert!((90..=100).contains(&quiet), "{quiet} when quiet");
    }

    #[test]
    fn without_a_share_only_the_allowance_is_left() {
        let budget = RetryBudget::new(0);
        spend_all(&budget);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(spend_all(&budget), 0);
        budget.age();
        assert_eq!(spend_all(&budget), 10);
    }
}
