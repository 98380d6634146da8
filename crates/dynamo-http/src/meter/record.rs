//! The metrics of one request.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::series::{Metrics, ModelSeries, RouteMeter};
use crate::route::Route;

/// One request, from its head to the end of its answer. The request is counted when the record is
/// dropped.
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    model: Option<Arc<ModelSeries>>,
    route: Route,
    stream: bool,
    began: Instant,
    first_byte: bool,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// The client left before its answer was complete.
    Left,
    /// The head of the answer was sent, and not yet all of the body.
    Begun(StatusCode),
    /// The answer was sent in full.
    Answered(StatusCode),
    /// The worker failed in the middle of the answer.
    Broken(StatusCode),
}

impl Record {
    pub(crate) fn begin(metrics: &Arc<Metrics>, route: Route) -> Self {
        Self {
            metrics: metrics.clone(),
            model: None,
            route,
            stream: false,
            began: Instant::now(),
            first_byte: false,
            outcome: Outcome::Left,
        }
    }

    /// Sets the model of the request, by its series.
    pub(crate) fn is_for(&mut self, model: Arc<ModelSeries>, stream: bool) {
        self.model = Some(model);
        self.stream = stream;
        self.route_meter().inflight.inc();
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome = Outcome::Answered(status);
    }

    pub(crate) fn begun(&mut self, status: StatusCode) {
        self.outcome = Outcome::Begun(status);
    }

    /// Notes that the answer was sent in full. Returns whether the request was a success.
    pub(crate) fn ended(&mut self) -> bool {
        if let Outcome::Begun(status) = self.outcome {
            self.outcome = Outcome::Answered(status);
        }
        matches!(self.outcome, Outcome::Answered(status) if status.is_success())
    }

    pub(crate) fn broke(&mut self) {
        if let Outcome::Begun(status) = self.outcome {
            self.outcome = Outcome::Broken(status);
        }
    }

    pub(crate) fn first_byte(&mut self) {
        if !std::mem::replace(&mut self.first_byte, true) {
            self.route_meter().first_byte.observe(self.began.elapsed().as_secs_f64());
        }
    }

    /// Notes how many tokens of the prompt the worker was expected to have cached.
    pub(crate) fn expected_cached(&self, tokens: u32) {
        self.metrics.expected_cached(self.series()).observe(tokens.into());
    }

    fn series(&self) -> &ModelSeries {
        self.model.as_deref().unwrap_or_else(|| self.metrics.unknown())
    }

    fn route_meter(&self) -> &RouteMeter {
        self.metrics.route(self.series(), self.route)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        /// nginx's status for a client that left before its answer was complete.
        const CLIENT_CLOSED: u16 = 499;

        let (status, whole) = match self.outcome {
            Outcome::Answered(status) => (status, true),
            Outcome::Broken(status) => (status, false),
            Outcome::Left | Outcome::Begun(_) => {
                (StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST), false)
            }
        };
        let series = self.series();
        let meter = self.metrics.route(series, self.route);
        let counter = || {
            let success = whole && status.is_success();
            let labels = request_labels(series.label(), self.route, self.stream, status, success);
            self.metrics.requests(&labels)
        };
        if whole && status == StatusCode::OK {
            meter.ok[usize::from(self.stream)].get_or_init(counter).inc();
        } else {
            counter().inc();
        }
        meter.duration.observe(self.began.elapsed().as_secs_f64());
        if self.model.is_some() {
            meter.inflight.dec();
        }
    }
}

fn request_labels(
    model: &str,
    route: Route,
    stream: bool,
    code: StatusCode,
    success: bool,
) -> [String; 5] {
    [
        model.to_owned(),
        route.name().to_owned(),
        if stream { "stream" } else { "unary" }.to_owned(),
        if success { "success" } else { "error" }.to_owned(),
        code.as_str().to_owned(),
    ]
}
