//! The ways of choosing a server, by name.

use std::fmt;
use std::str::FromStr;

/// How a request's server is chosen among those of its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterMode {
    /// The servers take turns.
    RoundRobin,
    /// A server at random.
    Random,
    /// Of two at random, the one with fewer requests in flight.
    PowerOfTwo,
    /// The one with the least outstanding work: requests in flight, and prompts whose answers have no
    /// content yet. Of more than 16 servers, 16 at random are looked at.
    LeastLoaded,
    /// Requests of the same session go to the same server, where the engine's cache is warm. The
    /// server is found by rendezvous hashing. A server with more than four requests in flight and
    /// more than twice its share of them is passed over. A request without a session goes as in
    /// [`PowerOfTwo`](Self::PowerOfTwo).
    Affinity,
    /// The one that costs least, in prompt tokens to be computed before the request's first token:
    /// what of the prompt is not in the server's cache, and what other requests still need there. See
    /// [`placement`](crate::placement).
    #[default]
    CacheAware,
}

impl RouterMode {
    /// Every mode.
    pub const ALL: &'static [Self] = &[
        Self::RoundRobin,
        Self::Random,
        Self::PowerOfTwo,
        Self::LeastLoaded,
        Self::Affinity,
        Self::CacheAware,
    ];

    /// Whether requests of one session are to stay together.
    pub(crate) const fn asks_for_sessions(self) -> bool {
        matches!(self, Self::Affinity | Self::CacheAware)
    }

    /// The name, as the flag spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::PowerOfTwo => "power-of-two",
            Self::LeastLoaded => "least-loaded",
            Self::Affinity => "affinity",
            Self::CacheAware => "cache-aware",
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
#[error("expected round-robin, random, power-of-two, least-loaded, affinity or cache-aware")]
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
