//! What a worker's control port says of one entry, and what follows from that: pure.
//!
//! An address proves nothing about the server behind it. The control port that an entry names does:
//! it answers for its own worker's id alone.

use std::time::Duration;

/// How many questions in a row may stay unanswered before an entry counts as one without a control
/// port.
const MISSES: u8 = 3;
/// How often a control port is asked while its entry is in use.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often a control port is asked that has denied its entry.
const ASK_DENIED_EVERY: Duration = Duration::from_millis(400);

/// What a question about an entry showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The control port knows the instance, and its worker offers it. Or, where nothing better can
    /// be asked, the server lists the model.
    Answers,
    /// The control port knows the instance, and its worker withdraws it.
    Withdrawn,
    /// Nobody takes a connection there, or the answer is that of another worker.
    Refused,
    /// The connection broke, or the answer makes no sense.
    Broken,
    /// There was no answer in time.
    Silent,
    /// The question was not asked, for want of what this machine lacks.
    NotAsked,
}

/// What an entry is, as its control port has shown it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The control port has never answered for the entry: a firewall may pass the engine's port
    /// only. The entry counts as one without a control port.
    #[default]
    Unheard,
    /// The control port has answered for the entry. So many questions since were not answered.
    Confirmed { misses: u8 },
    /// The control port has answered for the entry, and then not for so long that the entry counts
    /// as one without a control port.
    Lapsed,
    /// The worker of the entry is gone, or withdraws the entry.
    Denied,
}

impl Identity {
    /// The identity after a question.
    #[must_use]
    pub(super) fn after(self, finding: Finding) -> Self {
        match (self, finding) {
            (_, Finding::NotAsked) => self,
            (_, Finding::Answers) => Self::Confirmed { misses: 0 },
            (_, Finding::Withdrawn) => Self::Denied,
            (Self::Unheard, _) => Self::Unheard,
            (_, Finding::Refused | Finding::Broken) => Self::Denied,
            (Self::Confirmed { misses }, Finding::Silent) if misses + 1 < MISSES => {
                Self::Confirmed { misses: misses + 1 }
            }
            (Self::Confirmed { .. }, Finding::Silent) => Self::Lapsed,
            (Self::Lapsed | Self::Denied, Finding::Silent) => self,
        }
    }

    /// Whether the entry's URL gets no request on the word of this entry, not even as a last resort.
    pub(super) fn is_denied(self) -> bool {
        self == Self::Denied
    }

    /// Whether the worker answers. That is a sign of life, whatever it says of its engine. And a
    /// prompt on a new connection waits for the next answer of such a worker only, as that answer may
    /// deny the entry.
    pub(super) fn is_confirmed(self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }

    /// Whether what the store has lost, or never told, may serve: one such answer is proof enough,
    /// and nothing else is.
    pub(crate) fn is_proven_by(finding: Finding) -> bool {
        Self::Unheard.after(finding) == Self::Confirmed { misses: 0 }
    }

    /// How long after a question the next one follows while the entry is in use.
    pub(super) fn ask_again_after(self) -> Duration {
        if self.is_denied() { ASK_DENIED_EVERY } else { ASK_EVERY }
    }

    /// The identity as a number.
    pub(super) fn pack(self) -> u8 {
        match self {
            Self::Unheard => 0,
            Self::Lapsed => 1,
            Self::Denied => 2,
            Self::Confirmed { misses } => 3 + misses,
        }
    }

    /// What [`pack`](Self::pack) has packed.
    pub(super) fn unpack(packed: u8) -> Self {
        match packed {
            0 => Self::Unheard,
            1 => Self::Lapsed,
            2 => Self::Denied,
            more => Self::Confirmed { misses: more - 3 },
        }
    }
}

#[cfg(test)]
mod tests;
