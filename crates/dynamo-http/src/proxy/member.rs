//! A member of a request's body, and what to remove so that it is gone.

use std::ops::Range;

/// A member of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where the name begins, with its quote.
    pub(crate) name: usize,
    /// The place of the raw value.
    pub(crate) value: Range<usize>,
}

impl Member {
    /// The member and the comma that parts it from another one. There is one, since every body has a
    /// model.
    pub(super) fn with_comma(&self, body: &[u8]) -> Range<usize> {
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let Self { name, value } = self;
        let next = value.end + body[value.end..].iter().take_while(is_blank).count();
        if body[next..].starts_with(b",") {
            return *name..next + 1;
        }
        let before = name - body[..*name].iter().rev().take_while(is_blank).count();
        before - usize::from(body[..before].ends_with(b","))..value.end
    }
}
