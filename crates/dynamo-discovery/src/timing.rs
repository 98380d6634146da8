//! The times that a watcher waits.

use std::time::Duration;

/// How long a watcher waits for what. The defaults suit etcd.
///
/// ```
/// use std::time::Duration;
/// use dynamo_discovery::Timing;
///
/// let timing = Timing::new().with_longest_retry(Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Timing {
    pub(crate) silence: Duration,
    pub(crate) list: Duration,
    pub(crate) first_retry: Duration,
    pub(crate) longest_retry: Duration,
    pub(crate) sustained: Duration,
    pub(crate) reconnect_spread: Duration,
    pub(crate) relist_spread: Duration,
    pub(crate) longest_relist_spread: Duration,
}

impl Timing {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            silence: Duration::from_secs(7),
            list: Duration::from_secs(60),
            first_retry: Duration::from_millis(50),
            longest_retry: Duration::from_secs(1),
            sustained: Duration::from_secs(10),
            reconnect_spread: Duration::from_millis(900),
            relist_spread: Duration::from_millis(750),
            longest_relist_spread: Duration::from_secs(4),
        }
    }

    /// A watch that says nothing for this long is taken for dead. Stores give a sign of life every
    /// 5 s. By default 7 s.
    pub const fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// A list that takes longer than this is given up, whether the store or the reader is slow. By default 60 s.
    pub const fn with_list(self, list: Duration) -> Self {
        Self { list, ..self }
    }

    /// The first wait after a failure. By default 50 ms.
    pub const fn with_first_retry(self, first_retry: Duration) -> Self {
        Self { first_retry, ..self }
    }

    /// The longest wait after a failure. By default 1 s.
    pub const fn with_longest_retry(self, longest_retry: Duration) -> Self {
        Self { longest_retry, ..self }
    }

    /// A watch that lived this long resets the waits. By default 10 s.
    pub const fn with_sustained(self, sustained: Duration) -> Self {
        Self { sustained, ..self }
    }

    /// Watches that break are opened again over this time, besides the wait of a retry: those of a
    /// whole fleet break together. By default 900 ms.
    pub const fn with_reconnect_spread(self, reconnect_spread: Duration) -> Self {
        Self { reconnect_spread, ..self }
    }

    /// Lists that a lost history forces are spread over this time, and over a millisecond more for
    /// each entry of the last list: a whole fleet lists again together. By default 750 ms.
    pub const fn with_relist_spread(self, relist_spread: Duration) -> Self {
        Self { relist_spread, ..self }
    }

    /// The longest time over which such lists are spread. By default 4 s.
    pub const fn with_longest_relist_spread(self, longest_relist_spread: Duration) -> Self {
        Self { longest_relist_spread, ..self }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::new()
    }
}
