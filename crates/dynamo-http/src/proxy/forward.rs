//! Forwards a request: chooses servers, sends the request, and reports the outcome to rotation.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{ErrorChain, Kind, RequestField};
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::answer::Head;
use super::edit::Edits;
use super::headers::{RequestId, X_REQUEST_ID};
use super::isolation::{self, Salt};
use super::lookup::Lookup;
use super::priority::Ranked;
use super::refusal::{Refusal, is_full_for, is_refusal};
use super::sends::{End, Next, Reason, Resends, Sends};
use crate::access::Reservation;
use crate::balance::{Balancer, Gauges, Pick, QueueLimits, Queued, RetryBudget, Wish};
use crate::error::ApiError;
use crate::exchange::{Own, Request};
use crate::fleet::{
    ConnectError, Connection, ExchangeError, Fleet, Judge, MAX_IDLE, Need, Origin, Out, Place,
    Targets, Upstream, Wait,
};
use crate::live::Live;
use crate::meter::{Ending, Metrics, ModelSeries, Record, TRACEPARENT};
use crate::route::Route;

/// Sends requests to servers.
pub(crate) struct Forwarder {
    pub(crate) fleet: Fleet,
    pub(crate) balancer: Balancer,
    pub(crate) queue: QueueLimits,
    pub(crate) resends: Resends,
    pub(crate) first_byte: Live<Duration>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A request that was read and checked.
pub(crate) struct Ask<'a> {
    pub(crate) lookup: Lookup<'a>,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
    pub(crate) wish: Wish<'a>,
    pub(crate) id: &'a RequestId,
    /// The edits that ask for the usage of a stream, where the client has not asked.
    pub(crate) usage: Option<&'a Edits>,
    /// What keeps the request apart from those of others in an engine's cache.
    pub(crate) salt: Option<&'a Salt>,
    /// The class of the request, where requests have classes.
    pub(crate) ranked: Option<&'a Ranked>,
    /// The name of the model and its place in the body, where the client has asked for another name.
    pub(crate) rename: Option<(&'a Range<usize>, &'a Bytes)>,
    /// Whether the answer will be edited, so that it must be readable.
    pub(crate) edits_answer: bool,
    /// What the request has reserved, where its key has limits on tokens. Its answer must be readable.
    pub(crate) reservation: Option<&'a Reservation>,
}

impl Ask<'_> {
    fn kind(&self) -> Kind {
        self.lookup.route.kind()
    }

    /// What the request needs of a server.
    fn need(&self) -> Need {
        Need { kind: self.kind(), field: self.salt.and_then(Salt::needs) }
    }

    /// The salt for this server, if it accepts one.
    fn salts(&self, origin: Option<&Origin>) -> Option<&Salt> {
        let accepts = origin?.accepts.contains(RequestField::CacheSalt);
        self.salt.filter(|_| accepts)
    }

    /// The edits that ask this server for the usage of a stream.
    fn asks_usage(&self, origin: Option<&Origin>) -> Option<&Edits> {
        let accepts = origin?.accepts.contains(RequestField::IncludeUsage);
        self.usage.filter(|_| accepts)
    }

    /// The body of an attempt at this server.
    fn body(&self, origin: Option<&Origin>) -> Bytes {
        let (usage, salt) = (self.asks_usage(origin), self.salts(origin));
        if self.rename.is_none() && salt.is_none() && self.ranked.is_none() {
            return usage.map_or_else(|| self.body.clone(), |edits| edits.apply(self.body));
        }
        let mut edits = usage.cloned().unwrap_or_default();
        if let Some((place, name)) = self.rename {
            edits.replace(place.clone(), name.clone());
        }
        if let Some(salt) = salt {
            salt.put_into(&mut edits);
        }
        if let Some(ranked) = self.ranked {
            let accepts = |origin: &Origin| origin.accepts.contains(RequestField::Priority);
            ranked.put_into(&mut edits, self.body, origin.is_some_and(accepts));
        }
        edits.apply(self.body)
    }
}

/// A request that waits for a place. How long it has waited is noted when it is dropped, also where the
/// client has left.
struct Waiting<'a> {
    series: Arc<ModelSeries>,
    route: Route,
    since: Instant,
    record: &'a mut Record,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        self.series.queued(self.route, waited.as_secs_f64());
        self.record.note(|told| told.queued(waited));
    }
}

/// What tells one attempt from another.
struct Marks {
    id: HeaderValue,
    /// The span of the attempt, where it has one.
    traceparent: Option<HeaderValue>,
}

/// How a request was answered.
pub(crate) enum Answered {
    /// By an answer whose body is to be streamed.
    Head(Head),
    /// By the refusal of the first worker, since no other worker took the request.
    Refused(Box<Refusal>),
}

/// Gives a request up when neither its server nor the server's worker answers anything, the request
/// may be sent again, and another server is in rotation. Silence alone is no reason, since engines
/// queue.
struct Elsewhere<'a> {
    fleet: &'a Fleet,
    upstream: &'a Arc<Upstream>,
    targets: &'a Targets,
    need: Need,
    /// `None` where the request may not be sent again.
    budget: Option<&'a RetryBudget>,
    reservation: Option<&'a Reservation>,
}

impl Elsewhere<'_> {
    /// Whether another server is in rotation.
    fn is_there(&self) -> bool {
        self.targets
            .upstreams(self.need)
            .any(|other| !Arc::ptr_eq(other, self.upstream) && other.rotation.out().is_none())
    }
}

impl Judge for Elsewhere<'_> {
    fn gives_up(&self) -> bool {
        self.upstream.rotation.out() == Some(Out::Unresponsive)
            && !self.targets.worker_answers(self.upstream)
            && self.budget.is_some_and(RetryBudget::is_left)
            && self.is_there()
    }

    fn sends(&self) {
        if let Some(reservation) = self.reservation {
            reservation.under_way(true);
        }
    }

    fn confirms(&self) -> BoxFuture<'_, bool> {
        self.fleet.confirm(self.targets, self.upstream, self.need.kind).boxed()
    }
}

impl Forwarder {
    /// Sends a request to servers of its model until one answers.
    pub(crate) async fn forward(
        &self,
        targets: Arc<Targets>,
        ask: &Ask<'_>,
        record: &mut Record,
    ) -> Result<Answered, ApiError> {
        self.resends.budget.deposit();
        self.forward_again(targets, ask, &mut Sends::default(), record).await
    }

    /// The same for a request that may have been sent before.
    pub(crate) async fn forward_again(
        &self,
        mut targets: Arc<Targets>,
        ask: &Ask<'_>,
        sends: &mut Sends,
        record: &mut Record,
    ) -> Result<Answered, ApiError> {
        targets.note_use();
        let mut tried: Vec<Arc<Upstream>> = Vec::new();
        let mut is_first = sends.is_none();
        let mut failed = None;
        let mut refused: Option<Box<Refusal>> = None;
        // The place of the next attempt, where the last attempt has decided it.
        let mut decided = None;
        let mut settled = false;
        loop {
            let (place, max_idle) = match decided.take() {
                Some(decided) => decided,
                None => match self.balancer.pick(&targets, ask.need(), ask.wish, &tried) {
                    Pick::Place(place) => (place, Some(MAX_IDLE)),
                    // The store may have lost all servers, and the workers are being asked whether
                    // they are there. Boxed, so that the state of this rare wait is not part of
                    // every request.
                    Pick::None if !settled && tried.is_empty() => {
                        settled = true;
                        targets = Box::pin(ask.lookup.settled(&targets)).await?;
                        continue;
                    }
                    Pick::None => break,
                    // A refused request does not wait in the queue, since it has an answer.
                    Pick::Full if refused.is_some() => break,
                    // Boxed, so that the state of this rare wait is not part of every request.
                    Pick::Full => {
                        let waits = self.wait(&mut targets, ask, &tried, record);
                        (Box::pin(waits).await?, Some(MAX_IDLE))
                    }
                },
            };
            let upstream = place.upstream();
            let budget = sends.may_resend().then_some(&self.resends.budget);
            let (fleet, need) = (&self.fleet, ask.need());
            let reservation = ask.reservation;
            let elsewhere =
                Elsewhere { fleet, upstream, targets: &targets, need, budget, reservation };
            let wait = Wait { limit: self.first_byte.now(), judge: &elsewhere };
            let id = ask.id.of_attempt(std::mem::take(&mut is_first));

            let traceparent = record.note(|told| {
                let origin = targets.origin(upstream);
                told.sends(&upstream.url, origin.map(|origin| &origin.namespace))
            });
            let marks = Marks { id, traceparent: traceparent.flatten() };
            let attempt = self.attempt(upstream, &targets, ask, marks, max_idle, wait).await;
            if let Some(reservation) = reservation {
                reservation.under_way(false);
            }
            let error = match attempt {
                Ok((response, connection)) => {
                    let status = response.status();
                    record.note(|told| told.attempted(Some(status)));
                    let model = targets.shared_name().clone();
                    let origin = targets.origin(place.upstream()).cloned();
                    let asked = ask.asks_usage(origin.as_ref()).is_some();
                    let head =
                        Head { response, model, connection, place, origin, asked, naming: None };
                    if !is_refusal(status) {
                        return Ok(Answered::Head(head));
                    }
                    if let Some(first) = refused {
                        return Ok(Answered::Refused(first));
                    }
                    tried.push(head.place.upstream().clone());
                    let Some(other) = self.moves_on(&targets, ask, &tried, sends) else {
                        return Ok(Answered::Head(head));
                    };
                    self.fleet.series(head.place.upstream()).ended(Ending::of(status));
                    failed = Some(AttemptError::Status(status));
                    refused = Box::pin(Refusal::read(head)).await;
                    decided = Some((other, Some(MAX_IDLE)));
                    continue;
                }
                Err(error) => error,
            };
            record.note(|told| told.attempted(None));
            self.fleet.series(upstream).ended(Ending::NoAnswer);
            warn!(request_id = ?ask.id.value(), model = targets.name(), url = %upstream.url, error = %error, "no answer");
            let next = sends.after(error.end(), |reason| self.resends.pay(reason));
            failed = Some(match failed {
                // A refusal is an answer, which says more than any failure. A failure after bytes
                // went out says more than that other servers could not be reached.
                Some(before) if before.is_refusal() || next != Next::Stop => before,
                _ => error,
            });
            match next {
                // A server that has died may take one more connection before its socket closes, so
                // the one send that is left goes to another server where there is one.
                Next::Same if !elsewhere.is_there() => decided = Some((place, None)),
                Next::Same | Next::Elsewhere => tried.push(upstream.clone()),
                Next::Stop => break,
            }
        }
        if let Some(refused) = refused {
            return Ok(Answered::Refused(refused));
        }
        Err(match failed {
            None | Some(AttemptError::Exchange(ExchangeError::Gone)) => no_instances(&targets, ask),
            Some(AttemptError::Exchange(ExchangeError::Silent)) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "The worker did not begin to answer in time.",
            )
            .with_code("upstream_timeout"),
            Some(AttemptError::Exchange(ExchangeError::Connect(ConnectError::Ours(_)))) => {
                ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The front door is out of resources to reach a worker; try again shortly.",
                )
                .with_code("overloaded")
            }
            Some(AttemptError::TargetTooLong) => {
                ApiError::new(StatusCode::URI_TOO_LONG, "The query of the request is too long.")
            }
            // The refusal was too large to be kept, or it broke.
            Some(AttemptError::Status(status)) if is_refusal(status) => {
                ApiError::new(status, "The workers of the model are busy; try again shortly.")
                    .with_code("overloaded")
            }
            Some(_) => bad_gateway(),
        })
    }

    /// Finds a place for a refused request at another server, if one is in rotation and the request
    /// may be sent a second time. It does not wait for a place.
    fn moves_on(
        &self,
        targets: &Targets,
        ask: &Ask<'_>,
        tried: &[Arc<Upstream>],
        sends: &mut Sends,
    ) -> Option<Place> {
        let is_tried = |one: &Arc<Upstream>| tried.iter().any(|other| Arc::ptr_eq(one, other));
        let mut untried = targets.upstreams(ask.need()).filter(|one| !is_tried(one));
        if !sends.may_resend() || !untried.any(|one| one.rotation.out().is_none()) {
            return None;
        }
        let Pick::Place(place) = self.balancer.pick(targets, ask.need(), ask.wish, tried) else {
            return None;
        };
        let next = sends.after(End::Sent(Reason::Refused), |reason| self.resends.pay(reason));
        (next == Next::Elsewhere).then_some(place)
    }

    /// Waits in the queue until a server has a place for the request.
    async fn wait(
        &self,
        targets: &mut Arc<Targets>,
        ask: &Ask<'_>,
        tried: &[Arc<Upstream>],
        record: &mut Record,
    ) -> Result<Place, ApiError> {
        let class = ask.ranked.map(|ranked| ranked.class);
        let gauges = Gauges {
            all: self.metrics.queued().clone(),
            of_class: class.map(|class| self.metrics.queued_of(class)),
        };
        let queued = Queued::join(targets, gauges, class.unwrap_or_default(), &self.queue)?;
        let series = targets.series().clone();
        let _waiting = Waiting { series, route: ask.lookup.route, since: Instant::now(), record };
        loop {
            let untried =
                |one: &&Arc<Upstream>| !tried.iter().any(|other| Arc::ptr_eq(*one, other));
            let mut places: Vec<_> =
                targets.upstreams(ask.need()).filter(untried).cloned().collect();
            if places.iter().any(|one| one.rotation.out().is_none()) {
                places.retain(|one| one.rotation.out().is_none());
            }
            let changed = ask.lookup.moved_on_from(targets);
            if let Some(mut place) = queued.wait(places, &self.balancer.limit, changed).await?
                && targets.has(place.upstream(), ask.need())
            {
                self.balancer.begun(targets, ask.wish, &mut place);
                return Ok(place);
            }
            *targets = ask.lookup.find()?;
            match self.balancer.pick(targets, ask.need(), ask.wish, tried) {
                Pick::Place(place) => return Ok(place),
                Pick::Full => {}
                Pick::None => return Err(no_instances(targets, ask)),
            }
        }
    }

    /// Sends the request to one server and reports to rotation how that ended. A connection that was
    /// idle for less than `max_idle` may be used; with `None` a new one is opened.
    async fn attempt(
        &self,
        upstream: &Arc<Upstream>,
        targets: &Targets,
        ask: &Ask<'_>,
        marks: Marks,
        max_idle: Option<Duration>,
        wait: Wait<'_>,
    ) -> Result<(http::Response<()>, Box<Connection>), AttemptError> {
        let origin = targets.origin(upstream);
        let body = ask.body(origin);
        let (pool, key) = (upstream.pool(), upstream.terms.key.header());
        let target = pool.target(ask.lookup.route, ask.query).ok_or(AttemptError::TargetTooLong)?;
        // An event is taken out of the answer or edited, or the key's tokens are counted in it.
        let is_read =
            ask.asks_usage(origin).is_some() || ask.edits_answer || ask.reservation.is_some();
        let own = [
            (header::HOST, Own::Is(pool.host())),
            (header::AUTHORIZATION, key.as_ref().map_or(Own::Passes, Own::Is)),
            (X_REQUEST_ID, Own::Is(&marks.id)),
            (TRACEPARENT, marks.traceparent.as_ref().map_or(Own::Passes, Own::Is)),
            (header::ACCEPT_ENCODING, if is_read { Own::Omitted } else { Own::Passes }),
        ];
        let request = Request {
            method: Method::POST,
            target: &target,
            headers: ask.headers,
            own: &own,
            body: Some(&body),
        };
        debug!(request_id = ?ask.id.value(), upstream_request_id = ?marks.id, url = %upstream.url, "sending");
        self.fleet.attention().attend(upstream);
        let answer = pool.exchange(self.fleet.connector(), &request, max_idle, wait).await;
        let rotation = &upstream.rotation;
        let stands_out = || targets.stands_out(upstream);
        let (change, outcome) = match answer {
            // A redirect is never followed, since its target is not registered.
            Ok((response, _))
                if response.status().is_redirection() || response.status().is_informational() =>
            {
                (None, Err(AttemptError::Status(response.status())))
            }
            Ok(answer) => {
                let (status, now) = (answer.0.status(), Instant::now());
                let change = match is_full_for(status, answer.0.headers()) {
                    Some(pause) => rotation.full(pause, now),
                    None => rotation.answered(status, now, stands_out),
                };
                (change, Ok(answer))
            }
            Err(error) => {
                let change = match &error {
                    ExchangeError::Connect(ConnectError::Theirs(error)) => {
                        // Nobody listens, so the engine will begin anew. A connect that takes too
                        // long says nothing of that.
                        if error.kind() == std::io::ErrorKind::ConnectionRefused {
                            upstream.placed.forget();
                        }
                        rotation.refused()
                    }
                    ExchangeError::Lost { reused: true, .. } => {
                        rotation.closed_reused();
                        None
                    }
                    ExchangeError::Unsent(_)
                    | ExchangeError::Lost { .. }
                    | ExchangeError::Invalid(_) => rotation.lost(Instant::now(), stands_out),
                    ExchangeError::Connect(ConnectError::Ours(_))
                    | ExchangeError::Gone
                    | ExchangeError::Silent
                    | ExchangeError::GivenUp => None,
                };
                (change, Err(AttemptError::Exchange(error)))
            }
        };
        self.fleet.attention().note(upstream, change);
        outcome
    }
}

/// Why one server gave no answer.
#[derive(Debug)]
enum AttemptError {
    Exchange(ExchangeError),
    Status(StatusCode),
    /// The worker's base path, the route and the query are too long together.
    TargetTooLong,
}

impl AttemptError {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(status) if is_refusal(*status))
    }

    fn end(&self) -> End {
        match self {
            Self::Exchange(
                ExchangeError::Connect(_) | ExchangeError::Gone | ExchangeError::Unsent(_),
            ) => End::Unsent,
            Self::Exchange(ExchangeError::Lost { reused: true, .. }) => End::Sent(Reason::Reused),
            Self::Exchange(ExchangeError::Lost { .. }) => End::Sent(Reason::Lost),
            Self::Exchange(ExchangeError::GivenUp) => End::Sent(Reason::Unresponsive),
            Self::Exchange(ExchangeError::Silent | ExchangeError::Invalid(_))
            | Self::Status(_)
            | Self::TargetTooLong => End::Final,
        }
    }
}

impl std::fmt::Display for AttemptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exchange(ExchangeError::Connect(error)) => write!(f, "cannot connect: {error}"),
            Self::Exchange(ExchangeError::Gone) => {
                f.write_str("its worker does not offer it any more")
            }
            Self::Exchange(ExchangeError::Unsent(error)) => {
                write!(f, "nothing could be sent: {}", ErrorChain(error))
            }
            Self::Exchange(ExchangeError::Lost { error, .. }) => {
                write!(f, "the connection was lost: {}", ErrorChain(error))
            }
            Self::Exchange(ExchangeError::Invalid(error)) => {
                write!(f, "the answer is invalid: {}", ErrorChain(error))
            }
            Self::Exchange(ExchangeError::Silent) => f.write_str("no answer in time"),
            Self::Exchange(ExchangeError::GivenUp) => f.write_str("it became unresponsive"),
            Self::TargetTooLong => f.write_str("the target is too long"),
            Self::Status(status) => write!(f, "unexpected status {}", status.as_u16()),
        }
    }
}

fn no_instances(targets: &Targets, ask: &Ask<'_>) -> ApiError {
    let name = ask.lookup.asked;
    let error =
        |message| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).with_code("no_instances");
    if ask.lookup.is_unroutable(targets) {
        let why = "its instances are registered without the URL of a server";
        return error(format!("The model '{name}' cannot be served: {why}.")).without_retry_after();
    }
    let there = |need: Need| targets.upstreams(need).next().is_some();
    if ask.need().field.is_some() && !there(ask.need()) && there(ask.kind().into()) {
        if targets.is_to_be_told() {
            warn!(
                model = targets.name(),
                "no worker of the model accepts cache_salt: its requests are refused"
            );
        }
        return isolation::none_accepts(name);
    }
    error(format!("The model '{name}' has no reachable instance at the moment."))
}

pub(super) fn bad_gateway() -> ApiError {
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "The worker could not be reached or gave no valid answer.",
    )
    .with_code("bad_gateway")
}
