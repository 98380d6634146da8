//! The body of a worker's answer on its way to the client, and how it ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tracing::warn;

use super::answer::Answer;
use super::dialect::EventStream;
use super::stage::Stage;
use crate::access::Permit;
use crate::error::{ApiError, ErrorShape};
use crate::fleet::Patience;
use crate::meter::Record;

/// The body of the answer as the client gets it.
///
/// When the worker fails in the middle of the answer, the client gets an error event where the route
/// has one, and then the connection is cut. Every client takes a clean end for a whole answer.
pub(crate) struct Passage {
    pub(crate) answer: Answer,
    /// The event stream, where an error event can be put into it.
    pub(crate) events: Option<EventStream>,
    pub(crate) shape: ErrorShape,
    pub(crate) record: Record,
    /// The request's share of its key's limits, where a key is required.
    pub(crate) permit: Option<Permit>,
    /// Reads and edits the events, where there is a reader.
    pub(crate) stage: Option<Stage>,
    pub(crate) request_id: HeaderValue,
    /// The time for which the worker may send nothing.
    pub(crate) patience: Patience,
    pub(crate) phase: Phase,
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
            Some(event) => Poll::Ready(Some(Ok(Frame::data(event)))),
            None => self.let_flush(cx),
        }
    }

    /// The part of a frame that goes on to the client. Without a stage this is the whole frame.
    fn edited(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(stage) = &mut self.stage else { return Some(frame) };
        match frame.into_data() {
            Ok(data) => {
                let mut data = stage.pass(&data);
                if self.answer.is_end_stream() {
                    data = [data, stage.finish()].concat().into();
                }
                // An empty frame is passed on only where it ends the body.
                let is_needed = !data.is_empty() || self.answer.is_end_stream();
                is_needed.then(|| Frame::data(data))
            }
            Err(trailers) => Some(trailers),
        }
    }

    /// Notes that the whole answer has passed.
    fn ended(&mut self) {
        if self.record.ended()
            && let Some(permit) = &mut self.permit
        {
            permit.succeeded();
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
            match Pin::new(&mut this.answer).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.record.first_byte();
                    let at = this.patience.renew();
                    this.answer.heard(at);
                    this.answer.content_came(at);
                    let Some(frame) = this.edited(frame) else { continue };
                    if let (Some(events), Some(data)) = (&mut this.events, frame.data_ref()) {
                        events.pass(data);
                    }
                    if this.answer.is_end_stream() {
                        this.ended();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(None) => {
                    let rest = this.stage.as_mut().map(Stage::finish).unwrap_or_default();
                    if !rest.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                    if this.events.as_ref().is_some_and(|events| !events.may_end()) {
                        return this.break_off(cx, &"the stream ended without its end marker");
                    }
                    this.ended();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => return this.break_off(cx, &error),
                Poll::Pending => {
                    std::task::ready!(this.patience.poll_over(cx));
                    return this.break_off(cx, &"it sent nothing for too long");
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A close-delimited stream without its end marker has to be polled once more: it broke.
        matches!(self.phase, Phase::Flowing)
            && self.answer.is_end_stream()
            && self.events.as_ref().is_none_or(EventStream::may_end)
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
