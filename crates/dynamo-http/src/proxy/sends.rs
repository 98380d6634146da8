//! How often a request is sent, and for which reasons.
//!
//! Bytes that went out may have reached an engine, and a request may be what ends the engine. So a
//! request whose bytes went out is sent once more at most, whatever the reason, and within a budget
//! that all requests share. An attempt that sent no byte is free.

use prometheus::IntCounter;

use crate::balance::RetryBudget;
use crate::meter::Metrics;

/// Why a request is sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A reused connection ended before the answer. The server may just have closed an idle one.
    Reused,
    /// A new connection ended before the answer.
    Lost,
    /// The server became unresponsive while the request waited there.
    Unresponsive,
    /// The server answered 503 or 429.
    Refused,
    /// The servers of an alias's target answered 5xx, or in another way that the alias names.
    Fallback,
}

impl Reason {
    pub(crate) const ALL: [Self; 5] =
        [Self::Reused, Self::Lost, Self::Unresponsive, Self::Refused, Self::Fallback];

    /// The value of the label `reason`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reused => "reused_connection",
            Self::Lost => "lost",
            Self::Unresponsive => "unresponsive",
            Self::Refused => "refused",
            Self::Fallback => "fallback",
        }
    }
}

/// How an attempt ended that gave no answer to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// No byte of the request was written.
    Unsent,
    /// Bytes may have reached the server.
    Sent(Reason),
    /// The attempt says about the request itself that it is not to be sent again.
    Final,
}

/// Where a request goes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To another server in rotation, else to the same one over a new connection.
    Same,
    /// To a server that was not tried.
    Elsewhere,
    /// Nowhere.
    Stop,
}

/// The sends of one request.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    /// Whether an attempt was made.
    begun: bool,
    resent: bool,
    /// Whether bytes went out and no head came.
    lost: bool,
    /// Whether the last attempt has decided that there is no further one.
    stopped: bool,
}

impl Sends {
    /// Whether no attempt was made yet.
    pub(crate) fn is_none(&self) -> bool {
        !self.begun
    }

    /// Whether an alias's next target may get the request, after the servers of the one before gave no
    /// answer.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.stopped
    }

    /// Whether an alias's next target may get the request, after a server of the one before answered
    /// in a way that another target may mend. Each target answers once, so there are no more such
    /// sends than targets. `pay` is asked if the request may be sent again.
    pub(crate) fn goes_on_after_answer(&mut self, pay: impl FnOnce(Reason) -> bool) -> bool {
        // The one further send after a loss has been made, and has got this answer.
        (self.begun, self.resent) = (true, true);
        !self.lost && pay(Reason::Fallback)
    }

    /// Whether the request could still be sent a second time.
    pub(crate) fn may_resend(&self) -> bool {
        !self.resent
    }

    /// Decides where the request goes after an attempt. `pay` is asked at most once, and only when
    /// the next attempt is the second send.
    pub(crate) fn after(&mut self, end: End, pay: impl FnOnce(Reason) -> bool) -> Next {
        let next = self.next(end, pay);
        self.begun = true;
        self.stopped = next == Next::Stop;
        next
    }

    fn next(&mut self, end: End, pay: impl FnOnce(Reason) -> bool) -> Next {
        match end {
            End::Unsent => Next::Elsewhere,
            End::Final => Next::Stop,
            End::Sent(_) if self.resent => Next::Stop,
            End::Sent(reason) => {
                self.resent = true;
                self.lost = !matches!(reason, Reason::Refused | Reason::Fallback);
                match reason {
                    reason if !pay(reason) => Next::Stop,
                    // This proves nothing against the server but the age of the connection.
                    Reason::Reused => Next::Same,
                    Reason::Lost | Reason::Unresponsive | Reason::Refused | Reason::Fallback => {
                        Next::Elsewhere
                    }
                }
            }
        }
    }
}

/// The budget of second sends that all requests of a front door share, and its counters.
#[derive(Debug)]
pub(crate) struct Resends {
    pub(crate) budget: RetryBudget,
    /// For each reason: those that were sent, and those over the budget.
    counters: [[IntCounter; 2]; Reason::ALL.len()],
}

impl Resends {
    pub(crate) fn new(budget: RetryBudget, metrics: &Metrics) -> Self {
        Self { budget, counters: Reason::ALL.map(|reason| metrics.resent(reason.name())) }
    }

    /// Pays for a second send. Returns whether the budget sufficed.
    pub(super) fn pay(&self, reason: Reason) -> bool {
        let may = self.budget.withdraw();
        let [sent, over_budget] = &self.counters[reason as usize];
        if may { sent } else { over_budget }.inc();
        may
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_end() -> impl Strategy<Value = End> {
        prop_oneof![
            Just(End::Unsent),
            Just(End::Final),
            (0..Reason::ALL.len()).prop_map(|at| End::Sent(Reason::ALL[at])),
        ]
    }

    #[test]
    fn a_request_that_was_lost_twice_is_not_sent_a_third_time_whatever_the_reasons() {
        for first in Reason::ALL {
            for second in Reason::ALL {
                let mut sends = Sends::default();
                assert_ne!(sends.after(End::Sent(first), |_| true), Next::Stop);
                let paid = |_| panic!("{second:?} was paid for");
                assert_eq!(sends.after(End::Sent(second), paid), Next::Stop);
            }
        }
    }

    #[test]
    fn each_reason_has_a_counter_of_its_own_at_its_place() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
    }

    proptest! {
        #[test]
        fn bytes_go_out_twice_at_most_and_once_where_the_budget_is_spent(
            ends in proptest::collection::vec(any_end(), 0..12),
            budget_is_left in any::<bool>(),
        ) {
            let mut sends = Sends::default();
            let (mut sent, mut paid) = (0, 0);
            for end in ends {
                sent += usize::from(matches!(end, End::Sent(_)));
                let next = sends.after(end, |_| { paid += 1; budget_is_left });
                prop_assert_eq!(next == Next::Elsewhere, match end {
                    End::Unsent => true,
                    End::Sent(reason) => next != Next::Stop && reason != Reason::Reused,
                    End::Final => false,
                });
                if next == Next::Stop { break; }
            }
            prop_assert!(sent <= if budget_is_left { 2 } else { 1 }, "sent {} times", sent);
            prop_assert!(paid <= 1);
        }
    }
}
