//! The proxy: a request for a model goes to one of its instances, the answer streams back.

mod answer;
mod balance;
mod body;
mod budget;
pub(crate) mod connect;
mod dialect;
mod forward;
mod headers;
mod json;
pub(crate) mod load;
pub(crate) mod metrics;
mod passage;
mod patience;
pub(crate) mod peek;
pub(crate) mod pool;
pub(crate) mod probe;
mod queue;
mod relay;
pub(crate) mod rotation;
#[cfg(feature = "tls")]
mod transport;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use dynamo_discovery::check_model_name;
use dynamo_namespace::NamespaceScope;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;
use tracing::debug;

use self::answer::Answer;
use self::balance::{AffinityKey, Balancer};
use self::body::{BodyLimits, Budget};
use self::budget::RetryBudget;
use self::connect::Connector;
use self::dialect::EventStream;
use self::forward::{Ask, Forwarder, Head};
use self::headers::X_REQUEST_ID;
use self::metrics::{Metrics, Record};
use self::passage::{Passage, Phase};
use self::patience::Patience;
use self::peek::Peeked;
use self::queue::QueueLimits;
use self::upkeep::Upkeep;
use crate::access::Caller;
use crate::error::ApiError;
use crate::frontend::FrontendConfig;
use crate::live::LiveView;
use crate::route::Route;
use crate::view::{Model, View};

pub use self::balance::{RouterMode, UnknownRouterMode};

/// Everything that a proxied request needs.
pub(crate) struct Proxy {
    /// All of the frontend's scope: for upkeep, and for operators.
    pub(crate) all: LiveView,
    /// What is shown to a request without a key: everything, or nothing where keys are required.
    anyone: LiveView,
    pub(crate) metrics: Arc<Metrics>,
    forwarder: Forwarder,
    limits: BodyLimits,
    affinity_header: HeaderName,
    idle_stream: Duration,
}

impl Proxy {
    pub(crate) fn new(all: LiveView, config: &FrontendConfig) -> Self {
        let metrics = Arc::new(Metrics::new());
        let upkeep = Upkeep::new(
            Connector::new(config),
            metrics.clone(),
            RetryBudget::new(config.retry_budget),
            config.probe_interval,
            config.worker_key.clone(),
        );
        let anyone = match config.api_keys {
            Some(_) => LiveView::empty(NamespaceScope::AnyOf(BTreeSet::new())),
            None => all.clone(),
        };
        Self {
            all,
            anyone,
            metrics,
            forwarder: Forwarder {
                balancer: Balancer {
                    mode: config.router_mode,
                    limit: config.worker_concurrency,
                    panic_threshold: config.panic_threshold,
                },
                queue: QueueLimits { depth: config.queue_depth, timeout: config.queue_timeout },
                first_byte: config.first_byte_timeout,
                upkeep: Arc::new(upkeep),
            },
            limits: BodyLimits {
                each: config.body_limit,
                stall: config.body_stall_timeout,
                budget: Budget::new(config.bodies_limit),
            },
            affinity_header: config.affinity_header.clone(),
            idle_stream: config.idle_stream_timeout,
        }
    }

    /// What is done for workers beside requests.
    pub(crate) fn upkeep(&self) -> Arc<Upkeep> {
        self.forwarder.upkeep.clone()
    }

    /// What a caller sees.
    fn live<'a>(&'a self, caller: &'a Caller) -> &'a LiveView {
        caller.tenant().map_or(&self.anyone, |tenant| &tenant.live)
    }

    /// What a caller sees now.
    pub(crate) fn view(&self, caller: &Caller) -> Arc<View> {
        self.live(caller).load()
    }

    /// A model that a caller sees now and that serves the route.
    fn find(&self, caller: &Caller, name: &str, route: Route) -> Result<Arc<Model>, ApiError> {
        self.live(caller).read(|view| find(view, name, route).cloned())
    }

    /// Answers one request on a proxied route.
    pub(crate) async fn serve<B>(&self, route: Route, head: &mut Parts, body: B) -> Response
    where
        B: Body<Data = Bytes>,
    {
        let id = headers::request_id(&head.headers);
        let mut record = Record::begin(&self.metrics, route);
        let mut response = match self.route(route, head, body, &id, &mut record).await {
            Ok(head) => self.pass_on(route, head, &id, record),
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
    async fn route<B>(
        &self,
        route: Route,
        head: &mut Parts,
        body: B,
        id: &HeaderValue,
        record: &mut Record,
    ) -> Result<Head, ApiError>
    where
        B: Body<Data = Bytes>,
    {
        let caller = Caller::of(&head.extensions);
        record.admitted(caller.begin()?);
        self.live(&caller).read(|view| view.admit(route.kind()))?;
        check_content_type(&head.headers)?;
        let body = self.limits.read(body).await?;
        let asked = peek::peek(&body.bytes)?;
        // The world may have moved on while the body came in.
        let find = || self.find(&caller, &asked.model, route);
        let model = find()?;
        record.is_for(&model, asked.stream);
        let ask = Ask {
            route,
            query: head.uri.query(),
            affinity: self.affinity(&head.headers, &asked),
            headers: std::mem::take(&mut head.headers),
            body: &body.bytes,
            id,
        };
        self.forwarder.forward(model, ask, find).await
    }

    /// What keeps this request together with others: their session, their user, or the beginning
    /// of their prompt.
    fn affinity(&self, headers: &HeaderMap, asked: &Peeked<'_>) -> Option<AffinityKey> {
        /// How much of a prompt has to be the same: about where its cache would be.
        const PREFIX: usize = 1024;

        if self.forwarder.balancer.mode != RouterMode::Affinity {
            return None;
        }
        let session = headers.get(&self.affinity_header).map(HeaderValue::as_bytes);
        let user = asked.user.as_deref().map(str::as_bytes);
        let prompt = asked.prompt.map(|prompt| &prompt.as_bytes()[..prompt.len().min(PREFIX)]);
        let key = session.into_iter().chain(user).chain(prompt).find(|text| !text.is_empty());
        key.map(AffinityKey::of)
    }

    /// Turns the worker's answer into ours: status and headers as they are, the body as it comes.
    fn pass_on(
        &self,
        route: Route,
        Head { response, connection, slot }: Head,
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
            answer: Answer::new(incoming, connection, slot),
            events,
            shape: route.error_shape(),
            record,
            request_id: id.clone(),
            patience: Patience::new(self.idle_stream),
            phase: Phase::Flowing,
        };
        Response::from_parts(parts, axum::body::Body::new(passage))
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers::media_type(headers) {
        Some(essence) if essence.eq_ignore_ascii_case(b"application/json") => Ok(()),
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

/// Whether an answer is a stream of events into which one could be put.
fn follows_events(headers: &HeaderMap) -> bool {
    let is_stream = headers::media_type(headers)
        .is_some_and(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"));
    is_stream
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
}
