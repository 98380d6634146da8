//! The body of a worker's answer on its way to the client, and how it ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use dynamo_discovery::ErrorChain;
use http::{HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tracing::warn;

use super::answer::Answer;
use super::dialect::EventStream;
use super::keep_alive::KeepAlive;
use super::reading::Reading;
use crate::access::{Permit, Reservation};
use crate::error::{ApiError, ErrorShape};
use crate::fleet::Patience;
use crate::meter::{Pace, Record, Usage};

/// The body of the answer as the client gets it.
///
/// When the worker fails in the middle of the answer, the client gets an error event where the route
/// has one, and then the connection is cut. Every client takes a clean end for a whole answer.
///
/// The fields are in memory in this order. Those that each token of a stream touches are together at the
/// beginning: where a thousand streams are open, each cache line that a token touches is fetched from
/// memory.
#[repr(C)]
pub(crate) struct Passage {
    pub(crate) answer: Answer,
    /// Where a silent stream gets comments.
    pub(crate) keep_alive: Option<Box<KeepAlive>>,
    /// The bytes of the body that came, where the request has reserved tokens.
    pub(crate) reserved: Option<u64>,
    pub(crate) pace: Pace,
    /// Reads the answer, and may take events out of it.
    pub(crate) reading: Reading,
    /// The time for which the worker may send nothing.
    pub(crate) patience: Patience,
    pub(crate) phase: Phase,
    /// The event stream, where an error event can be put into it.
    pub(crate) events: Option<EventStream>,
    pub(crate) record: Record,
    /// The request's share of its key's limits, where a key is required.
    pub(crate) permit: Option<Permit>,
    /// Whether the tokens of the request were counted for its key.
    pub(crate) settled: bool,
    pub(crate) shape: ErrorShape,
    pub(crate) request_id: HeaderValue,
}

pub(crate) enum Phase {
    Flowing,
    /// The worker failed. The server gets a turn to send its buffer and the error event.
    Broke,
    /// The next poll cuts the connection.
    Cut,
}

/// The error by which hyper ends a connection without the last chunk.
#[derive(Debug, thiserror::Error)]
#[error("the worker failed in the middle of its answer")]
pub(crate) struct Broken;

impl Passage {
    /// Tells the client that the worker failed, where that is possible, and cuts the connection.
    fn break_off(
        &mut self,
        cx: &mut Context<'_>,
        reason: &dyn std::fmt::Display,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        warn!(request_id = ?self.request_id, %reason, "the worker failed in the middle of its answer");
        self.record.broke();
        let error = ApiError::new(
            StatusCode::BAD_GATEWAY,
            "The connection to the worker was lost before the response was complete.",
        )
        .with_code("bad_gateway")
        .with_shape(self.shape);
        self.phase = Phase::Broke;
        match self.events.as_ref().and_then(|events| events.broken(&error)) {
            Some(event) => {
                self.pace.sends(event.len());
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
            None => self.let_flush(cx),
        }
    }

    /// Reads data. Returns what goes on to the client now, if anything does.
    fn read(&mut self, data: Bytes, at: Instant) -> Option<Bytes> {
        if let Some(bytes) = &mut self.reserved {
            *bytes += data.len() as u64;
        }
        if matches!(self.reading, Reading::Nothing) {
            return Some(data);
        }
        let mut data = self.reading.pass(data);
        if self.answer.is_ended() {
            let held = self.reading.finish();
            if !held.is_empty() {
                data = [data, held].concat().into();
            }
        }
        self.note_content(at);
        // Nothing is passed on only where it ends the body.
        let is_needed = !data.is_empty() || self.answer.is_ended();
        is_needed.then_some(data)
    }

    /// Notes that bytes came.
    fn heard(&mut self, at: Instant) {
        self.answer.heard(at);
        if self.pace.heard() {
            self.record.heard(at.into_std());
            if self.reading.content().is_none() {
                self.answer.content_came(at);
            }
        }
    }

    /// Notes the content that was read so far.
    fn note_content(&mut self, at: Instant) {
        if let Some(content) = self.reading.content()
            && self.pace.reads(at.into_std(), content)
        {
            self.record.content_came(at.into_std());
            self.answer.content_came(at);
        }
    }

    /// Notes in the record what has passed. Returns the usage.
    fn note_passed(&mut self) -> Usage {
        let (usage, unread) = self.reading.read();
        self.record.passed(self.pace, usage, unread);
        usage
    }

    /// Notes that the whole answer has passed.
    fn ended(&mut self) {
        let usage = self.note_passed();
        if let Some(input) = usage.input {
            self.answer.usage(input, usage.cached);
        }
        if self.record.ended()
            && let Some(permit) = &mut self.permit
        {
            permit.succeeded();
        }
        // Before the client can ask again.
        self.settle();
    }

    fn reservation(&self) -> Option<&Reservation> {
        self.permit.as_ref().and_then(Permit::reservation)
    }

    /// Counts the tokens of the request for its key, once.
    fn settle(&mut self) {
        let input = self.reservation().map(Reservation::input);
        let bytes = self.reading.content_bytes().or(self.reserved).unwrap_or(0);
        if let Some(permit) = &mut self.permit
            && !std::mem::replace(&mut self.settled, true)
        {
            permit.settle(self.record.spent(input, bytes));
        }
    }

    /// Ready with a comment for a client that has got nothing for long. It is no sign of life of the
    /// worker.
    fn poll_comment(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        match (&mut self.keep_alive, &self.events) {
            (Some(keep_alive), Some(events)) => keep_alive.poll(cx, events.is_between_events()),
            _ => Poll::Pending,
        }
    }

    /// Gives hyper's server a turn: it flushes its buffer when a body is pending, and drops the buffer
    /// when a body fails.
    fn let_flush(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.phase = Phase::Cut;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Passage {
    /// A client that leaves early pays for what was made until then.
    fn drop(&mut self) {
        self.note_passed();
        self.settle();
    }
}

impl Body for Passage {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        match this.phase {
            Phase::Flowing => {}
            Phase::Broke => return this.let_flush(cx),
            Phase::Cut => return Poll::Ready(Some(Err(Broken))),
        }
        loop {
            match this.answer.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    let at = this.patience.renew();
                    this.heard(at);
                    let Some(data) = this.read(data, at) else { continue };
                    this.pace.sends(data.len());
                    if let Some(keep_alive) = &mut this.keep_alive {
                        keep_alive.passed();
                    }
                    if let Some(events) = &mut this.events {
                        events.pass(&data);
                    }
                    if this.answer.is_ended() {
                        this.ended();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(None) => {
                    let rest = this.reading.finish();
                    this.note_content(Instant::now());
                    if !rest.is_empty() {
                        this.pace.sends(rest.len());
                        if let Some(events) = &mut this.events {
                            events.pass(&rest);
                        }
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                    if this.events.as_ref().is_some_and(|events| !events.may_end()) {
                        return this.break_off(cx, &"the stream ended without its end marker");
                    }
                    this.ended();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => return this.break_off(cx, &ErrorChain(&error)),
                Poll::Pending if this.patience.poll_over(cx).is_ready() => {
                    return this.break_off(cx, &"it sent nothing for too long");
                }
                Poll::Pending => {
                    let comment = std::task::ready!(this.poll_comment(cx));
                    this.pace.sends(comment.len());
                    return Poll::Ready(Some(Ok(Frame::data(comment))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A close-delimited stream without its end marker has to be polled once more: it broke.
        matches!(self.phase, Phase::Flowing)
            && self.answer.is_ended()
            && self.events.as_ref().is_none_or(EventStream::may_end)
    }

    fn size_hint(&self) -> SizeHint {
        // An edited body may get shorter.
        let left = self.answer.left().filter(|_| !self.reading.edits());
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
