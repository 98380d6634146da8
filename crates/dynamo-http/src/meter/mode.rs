//! Whether answers are read for the tokens that they used.

use std::fmt;
use std::str::FromStr;

/// Whether a front door reads the tokens that answers used, and asks engines to tell them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsageMode {
    /// Answers are not read. There are no metrics of tokens, and none of the time to a token.
    Off,
    /// Answers are read while they pass, and stay as they are.
    #[default]
    Observe,
    /// As `Observe`. Moreover, streamed chats and completions whose client does not ask for the usage
    /// ask for it, where the worker's entry accepts the field. The event with the usage is taken out
    /// of the answer again.
    Ask,
}

impl UsageMode {
    /// Every mode.
    pub const ALL: &'static [Self] = &[Self::Off, Self::Observe, Self::Ask];

    /// The name, as the flag spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Ask => "ask",
        }
    }
}

impl fmt::Display for UsageMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text is no usage mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected off, observe or ask")]
pub struct UnknownUsageMode;

impl FromStr for UsageMode {
    type Err = UnknownUsageMode;

    fn from_str(text: &str) -> Result<Self, UnknownUsageMode> {
        Self::ALL.iter().copied().find(|mode| mode.name() == text).ok_or(UnknownUsageMode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_read_by_its_name_only() {
        for mode in UsageMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(*mode));
        }
        for text in ["", "on", "Ask"] {
            assert_eq!(text.parse::<UsageMode>(), Err(UnknownUsageMode), "{text}");
        }
    }
}
