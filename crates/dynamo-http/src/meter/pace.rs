//! How an answer passes.

use std::time::{Duration, Instant};

/// What is noted of an answer with each piece of its body.
///
/// The proxy keeps it beside the [`Record`](super::Record), and hands it to the record when the answer
/// ends. So a token of a stream touches these few bytes, and not the record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Whether a piece has come.
    is_heard: bool,
    /// How many bytes went to the client.
    sent: u64,
    /// How many events carried content.
    content: u64,
    /// When the first content came, and the last.
    span: Option<(Instant, Instant)>,
    /// The longest time between two pieces with content.
    gap: Duration,
}

impl Pace {
    /// Notes that a piece came. Returns whether it was the first.
    pub(crate) fn heard(&mut self) -> bool {
        !std::mem::replace(&mut self.is_heard, true)
    }

    /// Notes that bytes of the body go to the client.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Notes how many events of what came so far carried content. Returns whether the first of them came
    /// now.
    pub(crate) fn reads(&mut self, at: Instant, content: u64) -> bool {
        if content == std::mem::replace(&mut self.content, content) {
            return false;
        }
        match &mut self.span {
            Some((_, last)) => {
                self.gap = self.gap.max(at - *last);
                *last = at;
                false
            }
            None => {
                self.span = Some((at, at));
                true
            }
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn content(&self) -> u64 {
        self.content
    }

    pub(super) fn gap(&self) -> Duration {
        self.gap
    }

    /// The mean time between two pieces with content, in seconds.
    pub(super) fn mean(&self) -> Option<f64> {
        let (first, last) = self.span?;
        let gaps = self.content.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((last - first).as_secs_f64() / gaps as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_content_is_told_once_and_pieces_without_content_are_no_end_of_a_gap() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert!(pace.heard() && !pace.heard());
        assert!(!pace.reads(at(0), 0));
        assert_eq!(pace.mean(), None);
        assert!(pace.reads(at(1), 1));
        assert_eq!(pace.mean(), None);
        assert!(!pace.reads(at(2), 2));
        assert!(!pace.reads(at(3), 2));
        assert!(!pace.reads(at(5), 3));
        assert_eq!(
            (pace.content(), pace.gap(), pace.mean()),
            (3, Duration::from_secs(3), Some(2.0))
        );
    }
}
