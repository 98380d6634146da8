//! The classes of requests: which of those that wait goes first.

use std::fmt;
use std::str::FromStr;

/// The class of a request. Of the requests that wait, those of a higher class go first; a request that
/// runs is never cut for another one.
///
/// ```
/// use dynamo_http::Priority;
///
/// assert!(Priority::Interactive > Priority::Default && Priority::Default > Priority::Bulk);
/// assert_eq!("bulk".parse(), Ok(Priority::Bulk));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// For what nobody waits for, such as nightly runs.
    Bulk,
    /// For all that says nothing else.
    #[default]
    Default,
    /// For what a person waits for.
    Interactive,
}

impl Priority {
    /// Every class, the lowest first.
    pub const ALL: [Self; 3] = [Self::Bulk, Self::Default, Self::Interactive];

    /// The name in settings, in the header `x-dynamo-priority` and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Default => "default",
            Self::Interactive => "interactive",
        }
    }

    /// The class that is this many classes higher, or else the highest.
    pub(crate) fn raised(self, classes: usize) -> Self {
        let raised = (self as usize).saturating_add(classes);
        Self::ALL.get(raised).copied().unwrap_or(Self::Interactive)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text names no [`Priority`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected interactive, default or bulk")]
pub struct UnknownPriority;

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(text: &str) -> Result<Self, UnknownPriority> {
        Self::ALL.into_iter().find(|class| class.name() == text).ok_or(UnknownPriority)
    }
}

/// What decides the class of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriorityMode {
    /// Nothing: requests have no class, and bodies stay as clients send them.
    #[default]
    None,
    /// The key of the request, or its header `x-dynamo-priority` where the key allows that. A request
    /// without a key is of the class [`Default`](Priority::Default).
    Keys,
    /// The same, and requests without a key may use the header.
    Header,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_known_by_its_name_and_rises_to_the_highest_at_most() {
        for class in Priority::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        for text in ["", "Bulk", "high", "0", " bulk"] {
            assert_eq!(text.parse::<Priority>(), Err(UnknownPriority), "{text}");
        }
        let raised = |classes| Priority::Bulk.raised(classes);
        assert_eq!([0, 1, 2].map(raised), Priority::ALL);
        assert_eq!(raised(usize::MAX), Priority::Interactive);
    }
}
