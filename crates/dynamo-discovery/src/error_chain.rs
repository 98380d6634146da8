//! An error together with its causes, for a log.

use std::error::Error;
use std::fmt;

/// Displays an error and all of its causes on one line, the outermost first.
///
/// An error of this crate says only what went wrong at its own level; the cause is its
/// [`source`](Error::source).
///
/// ```
/// use dynamo_discovery::{ErrorChain, StoreError};
///
/// let error = StoreError::Unavailable("connection refused".into());
/// assert_eq!(error.to_string(), "the store is unavailable");
/// assert_eq!(
///     ErrorChain(&error).to_string(),
///     "the store is unavailable: connection refused",
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut causes = std::iter::successors(self.0.source(), |&cause| cause.source());
        causes.try_for_each(|cause| write!(f, ": {cause}"))
    }
}
