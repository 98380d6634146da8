//! The proxy: forwards a request to an instance of its model, and streams the answer back.

mod answer;
mod body;
mod coding;
mod dialect;
mod edit;
mod forward;
mod headers;
mod include_usage;
mod json;
mod lookup;
mod outline;
mod passage;
pub(crate) mod peek;
mod reading;
mod refusal;
mod sends;
mod served;
mod stage;
mod tokens;
#[cfg(feature = "decompress")]
mod unpack;
mod usage;
mod via;

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;
use tracing::debug;

use self::answer::{Answer, Head};
pub(crate) use self::body::{BodyLimits, Memory};
use self::coding::Coding;
use self::dialect::EventStream;
use self::edit::Edits;
pub(crate) use self::forward::Forwarder;
use self::forward::{Answered, Ask};
use self::headers::{RequestId, X_REQUEST_ID};
use self::lookup::Lookup;
pub(crate) use self::lookup::unknown;
use self::passage::{Passage, Phase};
use self::peek::Peeked;
use self::reading::Reading;
pub(crate) use self::sends::Resends;
pub use self::served::Served;
pub(crate) use self::via::Via;
use crate::access::{Caller, Permit};
use crate::balance::{AffinityKey, RouterMode};
use crate::error::ApiError;
use crate::fleet::Patience;
use crate::meter::{Record, UsageMode};
use crate::route::Route;
use crate::view::Lens;

/// The settings and shared state of proxied requests.
pub(crate) struct Proxy {
    /// The view of requests without a key: the frontend's scope, or nothing where keys are required.
    pub(crate) anyone: Lens,
    pub(crate) forwarder: Forwarder,
    pub(crate) limits: BodyLimits,
    pub(crate) via: Via,
    pub(crate) affinity_header: HeaderName,
    pub(crate) idle_stream: Duration,
    pub(crate) usage: UsageMode,
}

impl Proxy {
    /// The view of a caller.
    pub(crate) fn lens<'a>(&'a self, caller: &'a Caller) -> &'a Lens {
        caller.lens().unwrap_or(&self.anyone)
    }

    /// Answers one request on a proxied route.
    pub(crate) async fn serve<B>(&self, route: Route, head: &mut Parts, body: B) -> Response
    where
        B: Body<Data = Bytes>,
    {
        let id = RequestId::of(&head.headers);
        let mut record = Record::begin(&self.forwarder.metrics, route);
        let caller = Caller::of(&head.extensions);
        // A request in a loop counts against nobody's limits.
        let answered = match self.via.check(&head.headers).and_then(|()| caller.begin()) {
            Ok(permit) => {
                let answered = self.route(route, head, body, &caller, &id, &mut record).await;
                answered.map(|answered| (answered, permit))
            }
            Err(refused) => Err(refused),
        };
        let mut response = match answered {
            Ok((Answered::Head(head), permit)) => {
                self.pass_on(route, head, id.value(), record, permit)
            }
            Ok((Answered::Refused(refusal), _permit)) => {
                record.answered(refusal.status());
                debug!(request_id = ?id.value(), path = route.path(), status = refusal.status().as_u16(), "all refuse");
                refusal.into_response()
            }
            Err(error) => {
                record.answered(error.status());
                debug!(request_id = ?id.value(), path = route.path(), status = error.status().as_u16(), "refused");
                let is_encoding = coding::is_refusal(&error);
                let mut response = error.with_shape(route.error_shape()).into_response();
                if is_encoding {
                    let accepted = HeaderValue::from_static(coding::ACCEPTED);
                    response.headers_mut().insert(header::ACCEPT_ENCODING, accepted);
                }
                response
            }
        };
        let (RequestId::Given(id) | RequestId::Own(id)) = id;
        response.headers_mut().insert(X_REQUEST_ID, id);
        response
    }

    /// Checks a request in the order of the answer table, and forwards it.
    async fn route<B>(
        &self,
        route: Route,
        head: &mut Parts,
        body: B,
        caller: &Caller,
        id: &RequestId,
        record: &mut Record,
    ) -> Result<Answered, ApiError>
    where
        B: Body<Data = Bytes>,
    {
        let lens = self.lens(caller);
        lens.read(|sight| sight.admit(route.kind()))?;
        check_content_type(&head.headers)?;
        let coding = Coding::of(&head.headers)?;
        let body = self.limits.read(body).await?;
        let body = match coding {
            None => body,
            // Boxed, so that its state is not part of every request.
            #[cfg(feature = "decompress")]
            Some(coding) => Box::pin(self.limits.unpack(coding, body)).await?,
            #[cfg(not(feature = "decompress"))]
            Some(coding) => match coding {},
        };
        let asked = peek::peek(&body.bytes)?;
        let lookup = Lookup { lens, fleet: &self.forwarder.fleet, model: &asked.model, route };
        // The view may have changed while the body arrived.
        let targets = lookup.find()?;
        record.is_for(targets.series().clone(), asked.stream);
        let mut headers = std::mem::take(&mut head.headers);
        let affinity = self.affinity(&headers, &asked);
        headers::for_upstream(&mut headers, id);
        self.via.add(&mut headers, head.version);
        let ask = Ask {
            lookup,
            query: head.uri.query(),
            affinity,
            headers,
            body: &body.bytes,
            id,
            usage: self.usage_to_ask(route, &asked, &body.bytes),
        };
        self.forwarder.forward(targets, ask).await
    }

    /// How a request asks for the usage of its stream, if the proxy is to ask and the client has not.
    fn usage_to_ask(&self, route: Route, asked: &Peeked<'_>, body: &[u8]) -> Option<Edits> {
        let may = self.usage == UsageMode::Ask
            && asked.stream
            && matches!(route, Route::ChatCompletions | Route::Completions);
        may.then(|| include_usage::edits(body, &asked.places))?
    }

    /// The affinity key of a request: that of its session, else of its user, else of the beginning of
    /// its prompt.
    fn affinity(&self, headers: &HeaderMap, asked: &Peeked<'_>) -> Option<AffinityKey> {
        /// How many bytes of a prompt make up the key.
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

    /// Answers with a worker's status and headers, and streams its body.
    fn pass_on(
        &self,
        route: Route,
        Head { response, model, connection, place, origin, asked }: Head,
        id: &HeaderValue,
        mut record: Record,
        mut permit: Option<Permit>,
    ) -> Response {
        let (mut parts, incoming) = response.into_parts();
        let worker = self.forwarder.fleet.series(place.upstream()).clone();
        record.begun(parts.status, worker);
        debug!(request_id = ?id, path = route.path(), status = parts.status.as_u16(), "answering");
        let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
        headers::for_client(&mut parts);
        let is_stream = is_event_stream(&parts.headers);
        if is_stream {
            headers::pass_events(&mut parts.headers);
        }
        let follows = is_stream && may_put_in(&parts.headers);
        let events = follows.then(|| EventStream::new(route, !chunked));
        let reading = match origin {
            Some(origin) if self.usage != UsageMode::Off && parts.status.is_success() => {
                let form = Reading::form(&parts.headers);
                record.reads(form, origin.tokens);
                Reading::new(form, route, asked)
            }
            _ => Reading::Nothing,
        };
        if reading.edits() {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        parts.extensions.insert(Served { model, worker: place.upstream().clone() });
        if incoming.is_end_stream() && record.ended() {
            permit.iter_mut().for_each(Permit::succeeded);
        }
        let passage = Passage {
            answer: Answer::new(incoming, connection, place),
            reading,
            events,
            shape: route.error_shape(),
            record,
            permit,
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

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers::media_type(headers)
        .is_some_and(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether an error event can be put into a stream: its bytes are plain and not counted.
fn may_put_in(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CONTENT_ENCODING) && !headers.contains_key(header::CONTENT_LENGTH)
}
