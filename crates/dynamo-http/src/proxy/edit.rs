//! The body of one attempt: the client's bytes, with edits for the server that was chosen.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Edits of a request's body. They are made for each attempt, since servers need different edits. The
/// bytes outside of the edited ranges stay as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits(Vec<Edit>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    at: Range<usize>,
    new: Bytes,
}

impl Edits {
    /// Replaces a range of the original by `new`. An empty range is an insertion. Ranges must not
    /// overlap. Of two insertions at one place, that of the later call stands behind the other.
    pub(crate) fn replace(&mut self, at: Range<usize>, new: impl Into<Bytes>) {
        let place = self.0.partition_point(|edit| edit.at.start <= at.start);
        debug_assert!(self.0.get(place).is_none_or(|next| at.end <= next.at.start), "overlap");
        debug_assert!(place == 0 || self.0[place - 1].at.end <= at.start, "overlap");
        self.0.insert(place, Edit { at, new: new.into() });
    }

    /// Whether there is no edit.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The edited body. Without edits this is the original, and nothing is copied.
    pub(crate) fn apply(&self, original: &Bytes) -> Bytes {
        if self.0.is_empty() { original.clone() } else { self.copy(original) }
    }

    /// An edited copy.
    pub(crate) fn copy(&self, original: &[u8]) -> Bytes {
        let removed: usize = self.0.iter().map(|edit| edit.at.len()).sum();
        let added: usize = self.0.iter().map(|edit| edit.new.len()).sum();
        let mut body = BytesMut::with_capacity(original.len() - removed + added);
        let mut from = 0;
        for edit in &self.0 {
            body.extend_from_slice(&original[from..edit.at.start]);
            body.extend_from_slice(&edit.new);
            from = edit.at.end;
        }
        body.extend_from_slice(&original[from..]);
        body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_without_edits_is_the_original_and_no_copy() {
        let original = Bytes::from(vec![b'x'; 100]);
        assert_eq!(Edits::default().apply(&original).as_ptr(), original.as_ptr());
    }

    proptest! {
        #[test]
        fn every_byte_outside_of_the_edits_stays(
            text in "[a-z]{0,60}",
            cuts in proptest::collection::btree_set(0_usize..60, 0..10),
            new in proptest::collection::vec("[A-Z]{0,5}", 5),
            backwards in any::<bool>(),
        ) {
            let cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
            let ranges: Vec<_> =
                cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).zip(&new).collect();
            let mut expected = text.clone();
            for (at, new) in ranges.iter().rev() {
                expected.replace_range(at.clone(), new);
            }
            let mut edits = Edits::default();
            let mut put = |(at, new): &(Range<usize>, &String)| {
                edits.replace(at.clone(), new.as_bytes().to_vec());
            };
            if backwards { ranges.iter().rev().for_each(&mut put) } else { ranges.iter().for_each(&mut put) }
            prop_assert_eq!(edits.apply(&Bytes::from(text)), expected);
        }
    }
}
