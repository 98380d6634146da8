//! A request's way to a server: chosen, sent, and sent again where that can help.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::warn;

use super::balance::{AffinityKey, Balancer, Pick};
use super::headers;
use super::load::Slot;
use super::pool::{Connection, ExchangeError, Wait};
use super::queue::{QueueLimits, Queued};
use super::rotation::Out;
use super::upkeep::{MAX_IDLE, Upkeep};
use crate::error::ApiError;
use crate::route::Route;
use crate::upstream::Upstream;
use crate::view::Model;

/// Sends requests to servers.
pub(crate) struct Forwarder {
    pub(crate) balancer: Balancer,
    pub(crate) queue: QueueLimits,
    pub(crate) first_byte: Duration,
    pub(crate) upkeep: Arc<Upkeep>,
}

/// A request that was read and understood.
pub(crate) struct Ask<'a> {
    pub(crate) route: Route,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a Bytes,
    pub(crate) affinity: Option<AffinityKey>,
    pub(crate) id: &'a HeaderValue,
}

/// The head of an answer, the connection that it came over, and the place that it takes.
pub(crate) struct Head {
    pub(crate) response: http::Response<Incoming>,
    pub(crate) connection: Box<Connection>,
    pub(crate) slot: Slot,
}

impl Forwarder {
    /// Sends a request to servers of its model until one answers.
    ///
    /// `find` is asked for the model again where the request has to wait: servers come and go.
    pub(crate) async fn forward(
        &self,
        mut model: Arc<Model>,
        mut ask: Ask<'_>,
        find: impl Fn() -> Result<Arc<Model>, ApiError>,
    ) -> Result<Head, ApiError> {
        headers::for_upstream(&mut ask.headers, ask.body.len(), ask.id);
        headers::authorize(&mut ask.headers, self.upkeep.worker_key.header());
        self.upkeep.budget.deposit();
        let mut tried: Vec<Arc<Upstream>> = Vec::new();
        let mut resent = false;
        let mut failed = None;
        loop {
            let kind = ask.route.kind();
            let slot = match self.balancer.pick(&model, kind, ask.affinity, &tried) {
                Pick::Slot(slot) => slot,
                Pick::None => break,
                // Boxed, as it is rare: its state is no part of every request's.
                Pick::Full => Box::pin(self.wait(&mut model, &ask, &tried, &find)).await?,
            };
            let upstream = slot.upstream();
            // While it waits, nothing is known against the server. Once something is, the request
            // is better off elsewhere, if it may be sent again and there is an elsewhere.
            let give_up = || {
                upstream.rotation.out() == Some(Out::Unresponsive)
                    && !resent
                    && self.upkeep.budget.is_left()
                    && model.upstreams(kind).any(|other| {
                        !Arc::ptr_eq(other, upstream) && other.rotation.out().is_none()
                    })
            };
            let wait = Wait { limit: self.first_byte, give_up: &give_up };
            let error = match self.attempt(upstream, &ask, wait).await {
                Ok((response, connection)) => return Ok(Head { response, connection, slot }),
                Err(error) => error,
            };
            warn!(request_id = ?ask.id, model = model.name(), url = %upstream.url, error = %error, "no answer");
            tried.push(upstream.clone());
            let again = match &error {
                // Nothing was sent, so this is no second time.
                AttemptError::Exchange(ExchangeError::Connect(_)) => true,
                AttemptError::Exchange(ExchangeError::Lost { .. } | ExchangeError::GivenUp) => {
                    !std::mem::replace(&mut resent, true) && self.may_resend()
                }
                AttemptError::Exchange(ExchangeError::Silent | ExchangeError::Invalid(_))
                | AttemptError::Status(_) => false,
            };
            failed = Some(match failed {
                // What happened first says more than that the others could not be reached either.
                Some(before) if again => before,
                _ => error,
            });
            if !again {
                break;
            }
        }
        Err(match failed {
            None => no_instances(&model),
            Some(AttemptError::Exchange(ExchangeError::Silent)) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "The worker did not begin to answer in time.",
            )
            .with_code("upstream_timeout"),
            Some(_) => bad_gateway(),
        })
    }

    fn may_resend(&self) -> bool {
        let may = self.upkeep.budget.withdraw();
        self.upkeep.metrics.resent(may);
        may
    }

    /// Waits until a server has a place for the request.
    async fn wait(
        &self,
        model: &mut Arc<Model>,
        ask: &Ask<'_>,
        tried: &[Arc<Upstream>],
        find: impl Fn() -> Result<Arc<Model>, ApiError>,
    ) -> Result<Slot, ApiError> {
        let Some(limit) = self.balancer.limit else { return Err(no_instances(model)) };
        let kind = ask.route.kind();
        let queued = Queued::join(model, &self.upkeep.metrics.queued, self.queue)?;
        loop {
            let untried =
                |one: &&Arc<Upstream>| !tried.iter().any(|other| Arc::ptr_eq(*one, other));
            let mut places: Vec<_> = model.upstreams(kind).filter(untried).cloned().collect();
            if places.iter().any(|one| one.rotation.out().is_none()) {
                places.retain(|one| one.rotation.out().is_none());
            }
            let changed = || find().is_ok_and(|now| !Arc::ptr_eq(&now, model));
            if let Some(slot) = queued.wait(places, limit, changed).await? {
                return Ok(slot);
            }
            *model = find()?;
            match self.balancer.pick(model, kind, ask.affinity, tried) {
                Pick::Slot(slot) => return Ok(slot),
                Pick::Full => {}
                Pick::None => return Err(no_instances(model)),
            }
        }
    }

    /// Sends the request to one server. A reused connection that breaks before the answer proves
    /// nothing but its age, so the request is sent once more, over a new one.
    async fn attempt(
        &self,
        upstream: &Arc<Upstream>,
        ask: &Ask<'_>,
        wait: Wait<'_>,
    ) -> Result<(http::Response<Incoming>, Box<Connection>), AttemptError> {
        let exchange = |max_idle| {
            let mut request = http::Request::new(Full::new(ask.body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = upstream.pool().target(ask.route, ask.query);
            *request.headers_mut() = ask.headers.clone();
            request.headers_mut().insert(header::HOST, upstream.pool().host().clone());
            upstream.pool().exchange(&self.upkeep.connector, request, max_idle, wait)
        };
        self.upkeep.attend(upstream);
        let mut answer = exchange(Some(MAX_IDLE)).await;
        if matches!(answer, Err(ExchangeError::Lost { reused: true, .. })) {
            answer = exchange(None).await;
        }
        let rotation = &upstream.rotation;
        let (change, outcome) = match answer {
            // Never followed: where it leads is not registered.
            Ok((response, _))
                if response.status().is_redirection() || response.status().is_informational() =>
            {
                (None, Err(AttemptError::Status(response.status())))
            }
            Ok(answer) => (rotation.answered(answer.0.status(), Instant::now()), Ok(answer)),
            Err(error) => {
                let change = match &error {
                    ExchangeError::Connect(_) => rotation.refused(),
                    ExchangeError::Lost { .. } | ExchangeError::Invalid(_) => {
                        rotation.lost(Instant::now())
                    }
                    ExchangeError::Silent | ExchangeError::GivenUp => None,
                };
                (change, Err(AttemptError::Exchange(error)))
            }
        };
        self.upkeep.note(upstream, change);
        outcome
    }
}

/// Why one server gave no answer.
#[derive(Debug)]
enum AttemptError {
    Exchange(ExchangeError),
    Status(StatusCode),
}

impl std::fmt::Display for AttemptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exchange(ExchangeError::Connect(error)) => write!(f, "cannot connect: {error}"),
            Self::Exchange(ExchangeError::Lost { error, .. }) => {
                write!(f, "the connection was lost: {error}")
            }
            Self::Exchange(ExchangeError::Invalid(error)) => {
                write!(f, "the answer is invalid: {error}")
            }
            Self::Exchange(ExchangeError::Silent) => f.write_str("no answer in time"),
            Self::Exchange(ExchangeError::GivenUp) => f.write_str("it became unresponsive"),
            Self::Status(status) => write!(f, "unexpected status {}", status.as_u16()),
        }
    }
}

fn no_instances(model: &Model) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("The model '{}' has no reachable instance at the moment.", model.name()),
    )
    .with_code("no_instances")
}

fn bad_gateway() -> ApiError {
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "The worker could not be reached or gave no valid answer.",
    )
    .with_code("bad_gateway")
}
