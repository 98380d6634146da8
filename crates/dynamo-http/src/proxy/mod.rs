//! The proxy: a request for a model goes to one of its instances, the answer streams back.

mod answer;
mod body;
mod connect;
mod dialect;
mod headers;
pub(crate) mod metrics;
mod passage;
mod patience;
mod peek;
pub(crate) mod pool;
#[cfg(feature = "tls")]
mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use dynamo_discovery::check_model_name;
use dynamo_namespace::NamespaceScope;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::{debug, warn};

use self::answer::Answer;
use self::body::{BodyLimits, Budget};
use self::connect::Connector;
use self::dialect::EventStream;
use self::headers::X_REQUEST_ID;
use self::metrics::{Metrics, Record};
use self::passage::{Passage, Phase};
use self::patience::Patience;
use self::pool::{Connection, ExchangeError};
use crate::error::ApiError;
use crate::frontend::FrontendConfig;
use crate::route::Route;
use crate::switchboard::Switchboard;
use crate::upstream::Upstream;
use crate::view::{Model, View};

/// How long an idle connection to a worker is kept. Most engines close theirs after 5 s.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);

/// Everything that a proxied request needs.
pub(crate) struct Proxy {
    pub(crate) switchboard: Switchboard,
    pub(crate) scope: NamespaceScope,
    pub(crate) metrics: Arc<Metrics>,
    connector: Connector,
    limits: BodyLimits,
    first_byte: Duration,
    idle_stream: Duration,
}

/// An answer's head, and the connection that it came over.
type Head = (http::Response<Incoming>, Box<Connection>);

impl Proxy {
    pub(crate) fn new(
        switchboard: Switchboard,
        scope: NamespaceScope,
        config: &FrontendConfig,
    ) -> Self {
        Self {
            switchboard,
            scope,
            metrics: Arc::new(Metrics::new()),
            connector: Connector::new(config.connect_timeout),
            limits: BodyLimits {
                each: config.body_limit,
                stall: config.body_stall_timeout,
                budget: Arc::new(Budget::new(config.bodies_limit)),
            },
            first_byte: config.first_byte_timeout,
            idle_stream: config.idle_stream_timeout,
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.switchboard.view(&self.scope)
    }

    /// Answers one request on a proxied route.
    pub(crate) async fn serve(&self, route: Route, request: Request) -> Response {
        let id = headers::request_id(request.headers());
        let mut record = Record::begin(&self.metrics, route);
        let mut response = match self.route(route, request, &id, &mut record).await {
            Ok((head, upstream)) => self.pass_on(route, head, upstream, &id, record),
            Err(error) => {
                record.answered(error.status());
                debug!(request_id = ?id, path = route.path(), status = error.status().as_u16(), "refused");
                error.with_shape(route.error_shape()).into_response()
            }
        };
        response.headers_mut().insert(X_REQUEST_ID, id);
        response
    }

    /// Decides who answers, in the order of the answer table, and gets the head of the answer.
    async fn route(
        &self,
        route: Route,
        request: Request,
        id: &HeaderValue,
        record: &mut Record,
    ) -> Result<(Head, Arc<Upstream>), ApiError> {
        self.view().admit(route.kind())?;
        let (parts, body) = request.into_parts();
        check_content_type(&parts.headers)?;
        let body = self.limits.read(body).await?;
        let asked = peek::peek(&body.bytes)?;
        // The world may have moved on while the body came in.
        let view = self.view();
        let model = find(&view, &asked.model, route)?;
        record.is_for(model, asked.stream);
        self.forward(model, route, parts.uri.query(), parts.headers, &body.bytes, id).await
    }

    /// Sends the request to the model's instances until one answers.
    async fn forward(
        &self,
        model: &Model,
        route: Route,
        query: Option<&str>,
        mut headers: HeaderMap,
        body: &Bytes,
        id: &HeaderValue,
    ) -> Result<(Head, Arc<Upstream>), ApiError> {
        headers::for_upstream(&mut headers, body.len(), id);
        let mut lost_before = false;
        let mut failed = None;
        for upstream in model.upstreams(route.kind()) {
            let error = match self.attempt(upstream, route, query, &headers, body).await {
                Ok(head) => return Ok((head, upstream.clone())),
                Err(error) => error,
            };
            warn!(request_id = ?id, model = model.name(), %upstream.url, error = %error, "no answer");
            match error {
                AttemptError::Exchange(ExchangeError::Connect(_)) => {}
                AttemptError::Exchange(ExchangeError::Lost { .. }) if !lost_before => {
                    lost_before = true;
                }
                error => {
                    failed = Some(error);
                    break;
                }
            }
            failed.get_or_insert(error);
        }
        Err(match failed {
            None => no_instances(model),
            Some(AttemptError::Exchange(ExchangeError::Silent)) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "The worker did not begin to answer in time.",
            )
            .with_code("upstream_timeout"),
            Some(_) => bad_gateway(),
        })
    }

    /// Sends the request to one instance. A reused connection that breaks before the answer proves
    /// nothing but its age, so the request is sent once more, over a new one.
    async fn attempt(
        &self,
        upstream: &Upstream,
        route: Route,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Head, AttemptError> {
        let exchange = |max_idle| {
            let mut request = http::Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = upstream.pool.target(route, query);
            *request.headers_mut() = headers.clone();
            request.headers_mut().insert(header::HOST, upstream.pool.host().clone());
            upstream.pool.exchange(&self.connector, request, max_idle, self.first_byte)
        };
        let mut answer = exchange(Some(MAX_IDLE)).await;
        if matches!(answer, Err(ExchangeError::Lost { reused: true, .. })) {
            answer = exchange(None).await;
        }
        let (response, connection) = answer.map_err(AttemptError::Exchange)?;
        // Never followed: where it leads is not registered.
        if response.status().is_redirection() || response.status().is_informational() {
            return Err(AttemptError::Status(response.status()));
        }
        Ok((response, connection))
    }

    /// Turns the worker's answer into ours: status and headers as they are, the body as it comes.
    fn pass_on(
        &self,
        route: Route,
        (response, connection): Head,
        upstream: Arc<Upstream>,
        id: &HeaderValue,
        mut record: Record,
    ) -> Response {
        let (mut parts, incoming) = response.into_parts();
        record.begun(parts.status);
        debug!(request_id = ?id, path = route.path(), status = parts.status.as_u16(), "answering");
        let events = follows_events(&parts.headers).then(|| {
            let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
            EventStream::new(route, !chunked)
        });
        headers::drop_hop_by_hop(&mut parts.headers);
        if incoming.is_end_stream() {
            record.ended();
        }
        let passage = Passage {
            answer: Answer::new(incoming, connection, upstream),
            events,
            shape: route.error_shape(),
            record,
            request_id: id.clone(),
            patience: Patience::new(self.idle_stream),
            phase: Phase::Flowing,
        };
        Response::from_parts(parts, Body::new(passage))
    }

    /// Closes connections to workers that have been idle for too long.
    pub(crate) fn sweep(&self) {
        for model in self.view().models() {
            for upstream in model.all_upstreams() {
                upstream.pool.sweep(MAX_IDLE);
            }
        }
    }
}

/// Why one instance gave no answer.
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
            Self::Status(status) => write!(f, "unexpected status {}", status.as_u16()),
        }
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The Content-Type must be application/json.",
        )),
    }
}

/// The model, if it is in scope and serves the route.
fn find<'a>(view: &'a View, name: &str, route: Route) -> Result<&'a Arc<Model>, ApiError> {
    let model = known(view, name)?;
    if model.kinds().contains(route.kind()) {
        return Ok(model);
    }
    let routes: Vec<_> = Route::of(model.kinds()).map(Route::path).collect();
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "The model '{name}' does not serve {}; it serves {}.",
            route.path(),
            routes.join(", ")
        ),
    )
    .with_code("model_not_found")
    .with_param("model"))
}

/// The model, if it is in scope. One of another namespace is as unknown as one of none.
pub(crate) fn known<'a>(view: &'a View, name: &str) -> Result<&'a Arc<Model>, ApiError> {
    view.model(name).ok_or_else(|| {
        if !view.is_ready() {
            return ApiError::not_ready();
        }
        // A name that no one could register is not worth repeating, nor safe to.
        let message = match check_model_name(name) {
            Ok(()) => format!("The model '{name}' does not exist."),
            Err(_) => "There can be no model of this name.".to_owned(),
        };
        ApiError::new(StatusCode::NOT_FOUND, message)
            .with_code("model_not_found")
            .with_param("model")
    })
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

/// Whether an answer is a stream of events into which one could be put.
fn follows_events(headers: &HeaderMap) -> bool {
    let is_stream = headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    });
    is_stream
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
}
