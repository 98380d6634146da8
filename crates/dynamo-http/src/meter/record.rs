//! The metrics of one request.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::access_log::{AccessEnd, AccessLog, AccessRecord};
use super::pace::Pace;
use super::series::{Knowledge, Metrics, ModelSeries, NamespaceSeries, RouteMeter};
use super::told::{Ended, Told};
use super::trace::{Trace, Traces};
use super::usage::{Spent, Usage};
use super::worker::{Ending, WorkerSeries};
use crate::error::ApiError;
use crate::route::Route;

/// One request, from its head to the end of its answer. The request is counted when the record is
/// dropped.
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    model: Option<Arc<ModelSeries>>,
    route: Route,
    stream: bool,
    began: Instant,
    outcome: Outcome,
    /// The worker that answers.
    worker: Option<Arc<WorkerSeries>>,
    /// Where the answer is read for its tokens.
    answer: Option<Answer>,
    /// How many events of the answer were too long to be read.
    unread: u64,
    /// What is told at the end, where somebody is to be told.
    told: Option<Told>,
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

/// What was read of an answer.
struct Answer {
    /// None where the answer is read for the limits of its key only.
    namespace: Option<Arc<NamespaceSeries>>,
    form: Form,
    usage: Usage,
    pace: Pace,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As one document.
    Plain,
    /// As a stream of events.
    Stream,
    /// In a way that is not read: compressed, or neither JSON nor events.
    Unreadable,
}

/// The tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) usage: Usage,
    /// Whether `usage.output` is the number of events with content, since the engine told none.
    pub(crate) estimated: bool,
}

impl Record {
    pub(crate) fn begin(metrics: &Arc<Metrics>, route: Route) -> Self {
        Self {
            metrics: metrics.clone(),
            model: None,
            route,
            stream: false,
            began: Instant::now(),
            outcome: Outcome::Left,
            worker: None,
            answer: None,
            unread: 0,
            told: None,
        }
    }

    /// Tells these of the request when it has ended: an access log, and where its spans go.
    pub(crate) fn tells(
        &mut self,
        log: Option<&AccessLog>,
        traced: Option<(Box<Trace>, &Traces)>,
        facts: Box<AccessRecord>,
    ) {
        self.told = Some(Told::new(self.began, facts, log, traced));
    }

    /// Notes something, where somebody is to be told of it.
    pub(crate) fn note<T>(&mut self, note: impl FnOnce(&mut Told) -> T) -> Option<T> {
        self.told.as_mut().map(note)
    }

    /// Notes an error of our own as the answer.
    pub(crate) fn refused(&mut self, error: &ApiError) {
        self.answered(error.status());
        self.note(|told| told.refused(error.shared_code()));
    }

    /// Sets the model of the request, by its series.
    pub(crate) fn is_for(&mut self, model: Arc<ModelSeries>, stream: bool) {
        self.model = Some(model);
        self.stream = stream;
        self.route_meter().inflight.inc();
    }

    /// Sets the model of the request, where it may have had another one before.
    pub(crate) fn moves_to(&mut self, model: Arc<ModelSeries>, stream: bool) {
        if self.model.is_some() {
            self.route_meter().inflight.dec();
        }
        self.is_for(model, stream);
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome = Outcome::Answered(status);
    }

    /// Notes the head of an answer, and the worker that has sent it.
    pub(crate) fn begun(&mut self, status: StatusCode, worker: Arc<WorkerSeries>) {
        self.outcome = Outcome::Begun(status);
        self.worker = Some(worker);
    }

    /// Notes that the answer is read for its tokens, and whose they are. Without a namespace they count
    /// for the key only. Where nobody calls this, no tokens are counted.
    pub(crate) fn reads(&mut self, form: Form, namespace: Option<Arc<NamespaceSeries>>) {
        self.answer =
            Some(Answer { namespace, form, usage: Usage::default(), pace: Pace::default() });
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

    /// Notes that the first bytes of the body came.
    pub(crate) fn heard(&mut self, at: Instant) {
        let seconds = (at - self.began).as_secs_f64();
        self.route_meter().first_byte.observe(seconds);
        if self.answer.as_ref().is_some_and(|answer| answer.form == Form::Plain) {
            self.first_token(at, seconds);
        }
    }

    /// Notes that the first content of a stream came.
    pub(crate) fn content_came(&mut self, at: Instant) {
        if self.answer.is_some() {
            self.first_token(at, (at - self.began).as_secs_f64());
        }
    }

    /// Notes how the answer passed so far, the usage that was read of it, and how many of its events were
    /// too long to be read. Replaces what was noted before.
    pub(crate) fn passed(&mut self, pace: Pace, usage: Usage, unread: u64) {
        self.unread = unread;
        self.note(|told| told.sent(pace.sent()));
        if let Some(answer) = &mut self.answer {
            (answer.pace, answer.usage) = (pace, usage);
        }
    }

    /// What the request has used, as far as it is known now. `input` is the estimate for its prompt,
    /// if there is one, and `bytes` the size of the content. None where the answer is not read, as
    /// where no engine took the request.
    pub(crate) fn spent(&self, input: Option<u64>, bytes: u64) -> Option<Spent> {
        /// The bytes of a token, where nobody tells.
        const BYTES: u64 = 4;

        self.answer.as_ref()?;
        let Tokens { usage, estimated } = self.tokens();
        let told = usage.output.filter(|_| !estimated);
        let output = told.unwrap_or_else(|| {
            let weighed = if self.is_text() { bytes / BYTES } else { 0 };
            usage.output.unwrap_or(0).max(weighed)
        });
        let is_guess = usage.input.is_none() && input.is_some() || told.is_none() && output > 0;
        let input = usage.input.or(input).unwrap_or(0);
        Some(Spent { input, output, estimated: estimated || is_guess })
    }

    /// Whether a model generates text on the route.
    fn is_text(&self) -> bool {
        self.route.continues_a_prompt()
    }

    /// The tokens of the answer, as far as they are known now.
    pub(crate) fn tokens(&self) -> Tokens {
        let Some(answer) = &self.answer else { return Tokens::default() };
        let told = Tokens { usage: answer.usage, estimated: false };
        if !self.is_text() || answer.pace.content() == 0 {
            return told;
        }
        // Some engines begin with a first number of tokens, which an answer that was cut leaves as it
        // was.
        let is_whole = matches!(self.outcome, Outcome::Answered(_));
        match answer.usage.output {
            Some(output) if is_whole || output >= answer.pace.content() => told,
            _ => {
                let usage = Usage { output: Some(answer.pace.content()), ..answer.usage };
                Tokens { usage, estimated: true }
            }
        }
    }

    /// Notes the first content, which came so many seconds after the head of the request.
    fn first_token(&mut self, at: Instant, seconds: f64) {
        self.note(|told| told.first_token(at));
        if self.answer.as_ref().is_none_or(|answer| answer.namespace.is_none()) {
            return;
        }
        self.series().tokens(self.route).first_token.observe(seconds);
        if let Some(worker) = &self.worker {
            worker.first_token(seconds);
        }
    }

    /// Notes how many tokens of the prompt the worker was expected to have cached.
    pub(crate) fn expected_cached(&self, tokens: u32) {
        self.series().expected_cached(self.route).observe(tokens.into());
    }

    fn series(&self) -> &ModelSeries {
        self.model.as_deref().unwrap_or_else(|| self.metrics.unknown())
    }

    fn route_meter(&self) -> &RouteMeter {
        self.series().route(self.route)
    }

    /// Counts the tokens of the answer.
    fn count_tokens(&self, answer: &Answer) {
        let Some(counters) = answer.namespace.as_ref().map(|series| series.route(self.route))
        else {
            return;
        };
        let meter = self.series().tokens(self.route);
        let tokens = self.tokens();
        let known = match answer.form {
            Form::Unreadable => Knowledge::Unknown,
            _ if tokens.estimated => Knowledge::Estimated,
            _ if tokens.usage.is_empty() => Knowledge::Untold,
            _ => Knowledge::Told,
        };
        meter.usage[known as usize].inc();
        if let Some(worker) = &self.worker {
            worker.tokens(&tokens.usage);
        }
        // A float holds each number of tokens that is believed.
        if let Some(input) = tokens.usage.input {
            meter.input.observe(input as f64);
            counters.input.inc_by(input);
        }
        if let Some(cached) = tokens.usage.cached {
            meter.cached.observe(cached as f64);
        }
        if let Some(output) = tokens.usage.output {
            meter.output.observe(output as f64);
            counters.output.inc_by(output);
            if tokens.estimated {
                counters.estimated.inc_by(output);
            }
        }
        if let Some(mean) = answer.pace.mean() {
            meter.between_tokens.observe(mean);
        }
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
        let meter = series.route(self.route);
        let counter = || {
            let success = whole && status.is_success();
            let request_type = if self.stream { "stream" } else { "unary" };
            let labels = [
                self.route.name(),
                request_type,
                if success { "success" } else { "error" },
                status.as_str(),
            ];
            series.requests(&labels)
        };
        if whole && status == StatusCode::OK {
            meter.ok[usize::from(self.stream)].get_or_init(counter).inc();
        } else {
            counter().inc();
        }
        let total = self.began.elapsed();
        meter.duration.observe(total.as_secs_f64());
        if let Some(worker) = &self.worker {
            worker.ended(match self.outcome {
                Outcome::Answered(status) => Ending::of(status),
                Outcome::Broken(_) => Ending::Broken,
                Outcome::Left | Outcome::Begun(_) => Ending::Left,
            });
        }
        if let Some(answer) = &self.answer {
            self.count_tokens(answer);
        }
        if self.unread > 0 {
            self.metrics.unread(self.unread);
        }
        if self.model.is_some() {
            meter.inflight.dec();
        }
        if let Some(told) = self.told.take() {
            let Tokens { usage, estimated: is_estimated } = self.tokens();
            let (status, end) = match self.outcome {
                Outcome::Answered(status) => (Some(status), AccessEnd::Complete),
                Outcome::Broken(status) => (Some(status), AccessEnd::Cut),
                Outcome::Begun(status) => (Some(status), AccessEnd::ClientGone),
                Outcome::Left => (None, AccessEnd::ClientGone),
            };
            let gap = self.answer.as_ref().map(|answer| answer.pace.gap());
            let largest_gap = gap.unwrap_or_default();
            told.end(&Ended { status, end, usage, is_estimated, largest_gap, total });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_of_an_answer_are_those_of_its_worker_as_well() {
        let metrics = Arc::new(Metrics::new());
        let model = metrics.model("m");
        let mut record = Record::begin(&metrics, Route::ChatCompletions);
        record.is_for(model.clone(), false);
        record.begun(StatusCode::OK, metrics.worker("http://192.0.2.7"));
        record.reads(Form::Plain, Some(metrics.namespace(&model, "team-a")));
        let usage = Usage { input: Some(7), cached: Some(2), output: Some(3) };
        record.passed(Pace::default(), usage, 0);
        assert!(record.ended());
        drop(record);
        let (worker, totals) = metrics.worker_totals().next().unwrap();
        assert_eq!(&*worker, "http://192.0.2.7");
        let tokens = (totals.input, totals.cached, totals.output);
        assert_eq!((totals.requests, tokens), (1, (7, 2, 3)));
    }
}
