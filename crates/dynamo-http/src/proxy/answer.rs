//! The body of a worker's answer, read in the task of the client's connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::naming::Naming;
use crate::exchange;
use crate::fleet::{Connection, Origin, Place};

/// The head of an answer, with the model, the connection and the place of its request. The body is
/// still to be read from the connection.
pub(crate) struct Head {
    pub(crate) response: http::Response<()>,
    pub(crate) model: Arc<str>,
    pub(crate) connection: Box<Connection>,
    pub(crate) place: Place,
    /// What the server's entry says. None if the entry has just gone.
    pub(crate) origin: Option<Origin>,
    /// Whether the proxy has asked for the usage, and the client has not.
    pub(crate) asked: bool,
    /// How the answer names the model, if the request asked for an alias.
    pub(crate) naming: Option<Box<Naming>>,
}

/// A worker's answer as it arrives.
///
/// What is readable at the same time comes at once, and never waits for more. With the last data the
/// connection goes back to its pool. Dropping an unfinished answer closes the connection, which cancels
/// the request at the worker.
pub(crate) struct Answer {
    /// None when all of the answer has come, or it broke.
    connection: Option<Box<Connection>>,
    place: Place,
}

impl Answer {
    pub(crate) fn new(connection: Box<Connection>, place: Place) -> Self {
        let mut answer = Self { connection: Some(connection), place };
        answer.recycle_if_ended();
        answer
    }

    /// Notes for the server's rotation that bytes came.
    pub(crate) fn heard(&self, at: Instant) {
        self.place.upstream().rotation.heard(at);
    }

    /// Notes for placement that the first content came.
    pub(crate) fn content_came(&mut self, at: Instant) {
        self.place.content_came(at.into_std());
    }

    /// Notes for placement how many tokens the engine counted in the prompt, and how many of these were
    /// cached.
    pub(crate) fn usage(&self, prompt_tokens: u64, cached_tokens: Option<u64>) {
        self.place.usage(prompt_tokens, cached_tokens);
    }

    fn recycle_if_ended(&mut self) {
        if let Some(connection) = self.connection.take_if(|connection| connection.is_ended()) {
            connection.recycle(self.place.upstream().pool());
        }
    }

    /// The next data: all that can be read now. None at the end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, exchange::Error>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let data = ready!(connection.poll_data(cx));
        if matches!(data, Some(Err(_))) {
            self.connection = None;
        }
        // Before the last data is passed on: the client may ask again as soon as it has it.
        self.recycle_if_ended();
        Poll::Ready(data)
    }

    /// All of the data, if it is no more than `limit` bytes and does not break.
    pub(crate) async fn whole(mut self, limit: usize) -> Option<Bytes> {
        let mut whole = BytesMut::new();
        while let Some(data) = poll_fn(|cx| self.poll_data(cx)).await {
            whole.extend_from_slice(&data.ok()?);
            if whole.len() > limit {
                return None;
            }
        }
        Some(whole.freeze())
    }

    /// Whether all of the data has come.
    pub(crate) fn is_ended(&self) -> bool {
        self.connection.is_none()
    }

    /// How many bytes are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.connection.as_ref().map_or(Some(0), |connection| connection.left())
    }
}
