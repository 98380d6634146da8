//! Why an answer is none.

use std::io;

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The peer has closed the connection.
    #[error("the connection ended before the answer did")]
    Ended,
    /// The connection broke.
    #[error("the connection broke")]
    Broke(#[source] io::Error),
    /// Bytes came while nothing was asked.
    #[error("the worker has sent bytes that belong to no answer")]
    Unasked,
    /// The head cannot be read.
    #[error("the head of the answer is not HTTP/1")]
    Head(#[source] httparse::Error),
    /// The head, or a line between two chunks, has no end.
    #[error("the head of the answer, or a line of its framing, has more than {limit} bytes")]
    TooLong { limit: usize },
    /// The status has no meaning.
    #[error("{0} is no status")]
    Status(u16),
    /// The lengths contradict each other, or are none.
    #[error("the length of the answer is not one number")]
    Length,
    /// The body has a coding that we cannot take off, or one that HTTP/1.0 does not have.
    #[error("the transfer coding of the answer is not chunked alone")]
    Coding,
    /// A chunk does not begin or end as a chunk does.
    #[error("a chunk of the answer is malformed")]
    Chunk,
}

impl Error {
    /// Whether something came that is no answer; else the connection failed.
    pub(crate) fn is_invalid(&self) -> bool {
        match self {
            Self::Ended | Self::Broke(_) | Self::Unasked => false,
            Self::Head(_)
            | Self::TooLong { .. }
            | Self::Status(_)
            | Self::Length
            | Self::Coding
            | Self::Chunk => true,
        }
    }
}
