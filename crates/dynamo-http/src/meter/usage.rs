//! The tokens of one answer.

/// The tokens of one answer, as the engine told them. A number that the engine left out is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// All tokens of the prompt, with those from a cache.
    pub(crate) input: Option<u64>,
    /// The tokens of the prompt that came from a cache.
    pub(crate) cached: Option<u64>,
    /// The tokens that were generated, with those of the reasoning.
    pub(crate) output: Option<u64>,
}

/// The tokens that a request has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// Whether one of the numbers is an estimate, since the engine told none.
    pub(crate) estimated: bool,
}

impl Usage {
    /// Takes over each number of a later report. Streams report in parts, and cumulatively.
    pub(crate) fn update(&mut self, later: Self) {
        self.input = later.input.or(self.input);
        self.cached = later.cached.or(self.cached);
        self.output = later.output.or(self.output);
    }

    /// Whether the engine told nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
