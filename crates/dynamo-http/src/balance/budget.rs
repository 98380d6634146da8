//! How many requests may be sent a second time.
//!
//! Sending again helps when one server breaks and does harm when all of them do: then each request
//! becomes two. So what is sent again is bounded by a share of what was sent lately.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// The price of sending one request again. The unit is so small that a share of a request can be
/// deposited.
const PRICE: u64 = 100;
/// The allowance of each second, so that a quiet front door may send again, too: ten requests.
const EACH_SECOND: u64 = 10 * PRICE;
/// Each second, a tenth of the balance is forgotten. So the budget remembers about ten seconds.
const FORGOTTEN: u64 = 10;

/// How many requests may be sent again.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    percent: u64,
    /// What is added each second: nothing where nothing may be sent again.
    allowance: u64,
    /// Every request writes this. Padding keeps it apart from memory that is only read.
    balance: CachePadded<AtomicU64>,
}

impl RetryBudget {
    /// Of the requests of the last seconds, `percent` may be sent again, and ten each second. With 0
    /// percent none may.
    pub(crate) fn new(percent: u8) -> Self {
        let allowance = if percent == 0 { 0 } else { EACH_SECOND };
        Self {
            percent: percent.into(),
            allowance,
            balance: CachePadded::new(AtomicU64::new(10 * allowance)),
        }
    }

    /// A request was sent.
    pub(crate) fn deposit(&self) {
        self.balance.fetch_add(self.percent * PRICE / 100, Relaxed);
    }

    /// Whether a request may be sent again.
    pub(crate) fn is_left(&self) -> bool {
        self.balance.load(Relaxed) >= PRICE
    }

    /// Pays for sending a request again, if the balance suffices.
    pub(crate) fn withdraw(&self) -> bool {
        self.balance.fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(PRICE)).is_ok()
    }

    /// A second has passed.
    pub(crate) fn age(&self) {
        let aged = |balance: u64| Some(balance - balance / FORGOTTEN + self.allowance);
        // The closure always returns a value, so the update cannot fail.
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
    fn without_a_share_nothing_is_ever_sent_again() {
        let budget = RetryBudget::new(0);
        (0..1000).for_each(|_| budget.deposit());
        budget.age();
        assert!(!budget.is_left());
        assert_eq!(spend_all(&budget), 0);
    }
}
