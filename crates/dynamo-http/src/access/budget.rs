//! The token limits of a key, as they are configured.

use std::fmt;
use std::num::NonZeroU64;

/// The tokens that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// The tokens of prompts and answers together.
    All,
    /// The tokens of prompts.
    Input,
    /// The tokens of answers.
    Output,
}

/// The time in which a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// A bucket that is full at first and gets its size a minute, evenly spread.
    Minute,
    /// A day of the calendar, in UTC.
    Day,
    /// A month of the calendar, in UTC.
    Month,
}

impl Counted {
    /// All of them, in the order in which limits are listed.
    pub const ALL: [Self; 3] = [Self::All, Self::Input, Self::Output];

    /// The name of a limit up to its span, and of the tokens in a sentence.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::All => ("tokens", "tokens"),
            Self::Input => ("input_tokens", "input tokens"),
            Self::Output => ("output_tokens", "output tokens"),
        }
    }
}

impl Span {
    /// All of them, from the shortest to the longest.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Day, Self::Month];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many tokens a key may use.
///
/// ```
/// use dynamo_http::{Counted, Span, TokenLimits};
///
/// let limits = TokenLimits::default()
///     .with(Counted::All, Span::Day, 1_000_000.try_into()?)
///     .with(Counted::Output, Span::Minute, 10_000.try_into()?);
/// let names: Vec<_> = limits.iter().map(|limit| limit.name()).collect();
/// assert_eq!(names, ["tokens_per_day", "output_tokens_per_minute"]);
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLimits([[Option<NonZeroU64>; 3]; 3]);

/// One limit on tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenLimit {
    /// What it counts.
    pub counted: Counted,
    /// In which time.
    pub span: Span,
    /// The most tokens.
    pub most: NonZeroU64,
}

impl TokenLimit {
    /// The name of the limit, as the file of keys spells it.
    pub fn name(&self) -> String {
        format!("{}_per_{}", self.counted.words().0, self.span)
    }

    /// The limit in a sentence.
    pub(super) fn in_words(&self) -> String {
        format!("{} {} per {}", self.most, self.counted.words().1, self.span)
    }
}

impl TokenLimits {
    /// The same limits with one more, or with another value for it.
    #[must_use]
    pub const fn with(mut self, counted: Counted, span: Span, most: NonZeroU64) -> Self {
        self.0[counted as usize][span as usize] = Some(most);
        self
    }

    /// The most tokens of a kind in a time, if that is limited.
    pub const fn most(&self, counted: Counted, span: Span) -> Option<NonZeroU64> {
        self.0[counted as usize][span as usize]
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits there are.
    pub fn iter(&self) -> impl Iterator<Item = TokenLimit> {
        Counted::ALL.into_iter().flat_map(move |counted| {
            Span::ALL.into_iter().filter_map(move |span| {
                self.most(counted, span).map(|most| TokenLimit { counted, span, most })
            })
        })
    }
}
