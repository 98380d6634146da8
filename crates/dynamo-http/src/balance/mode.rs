//! The ways of choosing a server, by name.

use std::fmt;
use std::str::FromStr;

/// How a request's server is chosen among those of its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterMode {
    /// The servers take turns.
    #[default]
    RoundRobin,
    /// A server at random.
    Random,
    /// Of two at random, the one with fewer requests in flight ("power of two choices").
    LeastLoaded,
    /// Requests of the same session, the same user or the same beginning of a prompt go to the same
    /// server, where the engine's cache is warm. The server is found by rendezvous hashing. A server
    /// with more than four requests in flight and more than 1.25 times its share of them is passed
    /// over. A request without session, user and prompt goes by least load.
    Affinity,
}

impl RouterMode {
    /// Every mode.
    pub const ALL: &'static [Self] =
        &[Self::RoundRobin, Self::Random, Self::LeastLoaded, Self::Affinity];

    /// The name, as the flag spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastLoaded => "least-loaded",
            Self::Affinity => "affinity",
        }
    }
}

impl fmt::Display for RouterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text is no router mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected round-robin, random, least-loaded or affinity")]
pub struct UnknownRouterMode;

impl FromStr for RouterMode {
    type Err = UnknownRouterMode;

    fn from_str(text: &str) -> Result<Self, UnknownRouterMode> {
        Self::ALL.iter().copied().find(|mode| mode.name() == text).ok_or(UnknownRouterMode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_read_by_its_name_only() {
        for mode in RouterMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(*mode));
        }
        for text in ["", "kv", "Random", "round_robin"] {
            assert_eq!(text.parse::<RouterMode>(), Err(UnknownRouterMode), "{text}");
        }
    }
}
