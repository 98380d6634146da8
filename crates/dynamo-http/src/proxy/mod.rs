//! The proxy: forwards a request to an instance of its model, and streams the answer back.

mod aliased;
mod answer;
mod awaited;
mod body;
mod coding;
mod dialect;
mod edit;
mod estimate;
mod forward;
mod headers;
mod include_usage;
mod isolation;
mod json;
mod keep_alive;
mod lookup;
mod member;
mod naming;
mod outline;
mod passage;
pub(crate) mod peek;
mod priority;
mod reading;
mod received;
mod refusal;
mod rename;
mod sends;
mod served;
mod session;
mod stage;
mod tokens;
#[cfg(feature = "decompress")]
mod unpack;
mod usage;
mod via;

use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;
use tracing::debug;

use self::answer::{Answer, Head};
use self::awaited::{Found, Wanted};
pub(crate) use self::body::{BodyLimits, Memory};
use self::coding::Coding;
use self::dialect::EventStream;
use self::edit::Edits;
use self::estimate::Output;
pub(crate) use self::forward::Forwarder;
use self::forward::{Answered, Ask};
pub(crate) use self::headers::RequestId;
use self::headers::{Media, X_REQUEST_ID};
pub use self::isolation::{Isolation, ShortSecret};
use self::keep_alive::KeepAlive;
pub(crate) use self::lookup::unknown;
use self::passage::{Passage, Phase};
use self::peek::Peeked;
use self::priority::{Ranked, X_DYNAMO_PRIORITY};
use self::reading::Reading;
use self::received::Received;
#[cfg(feature = "fuzzing")]
pub(crate) use self::rename::PlainRename;
pub(crate) use self::sends::Resends;
pub use self::served::Served;
pub(crate) use self::via::Via;
use crate::access::{Amount, Caller, Permit};
use crate::alias::{Aliases, Offer};
use crate::balance::RouterMode;
use crate::error::ApiError;
use crate::fleet::Patience;
use crate::live::Live;
use crate::meter::{AccessLog, AccessRecord, Pace, Record, Traces, UsageMode};
use crate::placement::Path;
use crate::priority::PriorityMode;
use crate::route::Route;
use crate::view::Lens;

/// With the value 1 in a request, asks how its worker was chosen; in the answer it says so.
const X_DYNAMO_EXPLAIN: HeaderName = HeaderName::from_static("x-dynamo-explain");

/// A request on a proxied route, beside its head and its body.
struct Call<'a> {
    route: Route,
    caller: &'a Caller,
    id: &'a RequestId,
    /// The request's share of the limits of its key.
    permit: Option<&'a mut Permit>,
}

/// The settings and shared state of proxied requests.
pub(crate) struct Proxy {
    /// The view of requests without a key: the frontend's scope, or nothing where keys are required.
    pub(crate) anyone: Lens,
    pub(crate) forwarder: Forwarder,
    pub(crate) limits: BodyLimits,
    pub(crate) via: Via,
    pub(crate) affinity_header: HeaderName,
    pub(crate) idle_stream: Live<Duration>,
    /// How long an event stream may be silent before it gets a comment.
    pub(crate) sse_keepalive: Option<Duration>,
    pub(crate) usage: UsageMode,
    /// What keeps callers apart in the caches of engines.
    pub(crate) isolation: Option<Isolation>,
    /// What decides the classes of requests.
    pub(crate) priority: PriorityMode,
    pub(crate) aliases: Aliases,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) traces: Option<Traces>,
    /// How long a request waits for a model that may come.
    pub(crate) wait_for_model: Live<Duration>,
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
        let traces = self.traces.as_ref();
        let traced = traces.and_then(|traces| Some((traces.begin(&mut head.headers)?, traces)));
        if self.access_log.is_some() || traced.is_some() {
            let path = Cow::Borrowed(route.path());
            let mut logged =
                AccessRecord::of_head(&head.method, path, &head.headers, &head.extensions);
            logged.request_id = id.value().to_str().ok().map(Into::into);
            logged.key = caller.key().cloned();
            record.tells(self.access_log.as_ref(), traced, logged);
        }
        let asks = |value: &HeaderValue| value == "1";
        let explains = caller.may_explain() && head.headers.get(X_DYNAMO_EXPLAIN).is_some_and(asks);
        // A request in a loop counts against nobody's limits.
        let answered = match self.via.check(&head.headers).and_then(|()| caller.begin()) {
            Ok(mut permit) => {
                let call = Call { route, caller: &caller, id: &id, permit: permit.as_mut() };
                let answered = self.route(call, head, body, &mut record).await;
                answered.map(|answered| (answered, permit))
            }
            Err(refused) => Err(refused),
        };
        let mut response = match answered {
            Ok((Answered::Head(head), permit)) => {
                self.pass_on(route, head, id.value(), record, permit, explains)
            }
            Ok((Answered::Refused(refusal), _permit)) => {
                record.answered(refusal.status());
                let Served { model, worker } = &refusal.served;
                record.note(|told| {
                    told.served(model);
                    told.comes_from(&worker.url, refusal.namespace.as_ref());
                });
                debug!(request_id = ?id.value(), path = route.path(), status = refusal.status().as_u16(), "all refuse");
                sent(refusal.into_response(), &mut record)
            }
            Err(error) => {
                record.refused(&error);
                debug!(request_id = ?id.value(), path = route.path(), status = error.status().as_u16(), "refused");
                let is_encoding = coding::is_refusal(&error);
                let mut response = error.with_shape(route.error_shape()).into_response();
                if is_encoding {
                    let accepted = HeaderValue::from_static(coding::ACCEPTED);
                    response.headers_mut().insert(header::ACCEPT_ENCODING, accepted);
                }
                sent(response, &mut record)
            }
        };
        caller.tell_limits(response.headers_mut(), route.error_shape());
        let (RequestId::Given(id) | RequestId::Own(id)) = id;
        response.headers_mut().insert(X_REQUEST_ID, id);
        response
    }

    /// Checks a request in the order of the answer table, and forwards it.
    async fn route<B>(
        &self,
        Call { route, caller, id, mut permit }: Call<'_>,
        head: &mut Parts,
        body: B,
        record: &mut Record,
    ) -> Result<Answered, ApiError>
    where
        B: Body<Data = Bytes>,
    {
        let lens = self.lens(caller);
        let aliases = self.aliases.load();
        let admitted = lens.read(|sight| Offer::new(sight, aliases.as_deref()).admit(route.kind()));
        // A table that was replaced must not be kept for as long as a body takes.
        drop(aliases);
        // A request for a model that may come is read although its route is closed.
        let wait_for_model = self.wait_for_model.now();
        let closed = match admitted {
            Err(closed) if wait_for_model.is_zero() => return Err(closed),
            admitted => admitted.err(),
        };
        check_content_type(&head.headers)?;
        let coding = Coding::of(&head.headers)?;
        let body = self.limits.read(body).await?;
        record.note(|told| told.received(body.bytes.len()));
        let body = match coding {
            None => body,
            // Boxed, so that its state is not part of every request.
            #[cfg(feature = "decompress")]
            Some(coding) => Box::pin(self.limits.unpack(coding, body)).await?,
            #[cfg(not(feature = "decompress"))]
            Some(coding) => match coding {},
        };
        let mut output = Output::default();
        let asked = match caller.token_limits() {
            None => peek::peek(&body.bytes)?,
            Some(_) => peek::peek_and(&body.bytes, |name, value| output.read(name, value))?,
        };
        let salt = match &self.isolation {
            Some(isolation) if route.shares_prefixes() => {
                Some(isolation.salt(caller.key(), &body.bytes, &asked.places)?)
            }
            _ => None,
        };
        let ranked = Ranked::of(self.priority, caller, &head.headers, &asked.places)?;
        if let Some(ranked) = &ranked {
            // It is for this front door alone.
            head.headers.remove(X_DYNAMO_PRIORITY);
            record.note(|told| told.is_of(ranked.class));
        }
        // The view may have changed while the body arrived.
        let wanted = Wanted {
            lens,
            fleet: &self.forwarder.fleet,
            aliases: &self.aliases,
            name: &asked.model,
            route,
            session: || session::of(&head.headers, &self.affinity_header, asked.session),
        };
        let found = wanted.find();
        let known = match &found {
            Ok(Found::Model(targets)) => Some(targets.shared_name()),
            _ => None,
        };
        record.note(|told| told.asks(&asked.model, known, asked.stream));
        let found = match found {
            Err(error) if wait_for_model.is_zero() => return Err(error),
            // Boxed, so that the state of this rare wait is not part of every request.
            Err(_) => Box::pin(wanted.find_within(wait_for_model, closed)).await?,
            Ok(found) => found,
        };
        let mut headers = std::mem::take(&mut head.headers);
        let mode = self.forwarder.balancer.mode;
        let session = match mode.asks_for_sessions() {
            true => session::of(&headers, &self.affinity_header, asked.session),
            false => None,
        };
        headers::for_upstream(&mut headers, id);
        self.via.add(&mut headers, head.version);
        let is_metered = caller.token_limits().is_some();
        let usage = self.usage_to_ask(route, &asked, &body.bytes, is_metered);
        // After the model is found: a request for an unknown one reserves nothing.
        let reserve = |path: Option<&Path>| {
            if is_metered {
                let input = estimate::input(&asked.prompt, path, &body.bytes);
                let output = if route.continues_a_prompt() { output.tokens() } else { 0 };
                caller.reserve(permit.as_deref_mut(), Amount { input, output })?;
            }
            Ok(permit.and_then(|permit| permit.reservation()))
        };
        let received = Received {
            lens,
            fleet: &self.forwarder.fleet,
            route,
            asked: &asked,
            query: head.uri.query(),
            headers: &headers,
            body: &body.bytes,
            id,
            usage: usage.as_ref(),
            salt: salt.as_ref(),
            ranked: ranked.as_ref(),
            session: session.as_deref(),
            by_prompt: mode == RouterMode::CacheAware && route.continues_a_prompt(),
            reservation: None,
        };
        match found {
            Found::Model(targets) => {
                record.is_for(targets.series().clone(), asked.stream);
                let path = received.path(&targets);
                let reservation = reserve(path.as_ref())?;
                let ask = Ask { reservation, ..received.ask(received.lookup(None), path.as_ref()) };
                self.forwarder.forward(targets, &ask, record).await
            }
            // Boxed, so that its state is not part of every request.
            Found::Alias(way) => {
                let received = Received { reservation: reserve(None)?, ..received };
                Box::pin(self.forwarder.by_alias(way, &received, record)).await
            }
        }
    }

    /// How a request asks for the usage of its stream, if the proxy is to ask and the client has not.
    /// A request that is `metered` for the limits of its key asks in any case.
    fn usage_to_ask(
        &self,
        route: Route,
        asked: &Peeked<'_>,
        body: &[u8],
        metered: bool,
    ) -> Option<Edits> {
        let may = (metered || self.usage == UsageMode::Ask)
            && asked.stream
            && matches!(route, Route::ChatCompletions | Route::Completions);
        may.then(|| include_usage::edits(body, &asked.places))?
    }

    /// Answers with a worker's status and headers, and streams its body.
    fn pass_on(
        &self,
        route: Route,
        Head { response, model, connection, mut place, origin, asked, naming }: Head,
        id: &HeaderValue,
        mut record: Record,
        mut permit: Option<Permit>,
        explains: bool,
    ) -> Response {
        let (mut parts, ()) = response.into_parts();
        let worker = self.forwarder.fleet.series(place.upstream()).clone();
        record.begun(parts.status, worker);
        record.note(|told| told.served(&model));
        if !parts.status.is_success() {
            place.fails();
        }
        match &naming {
            Some(naming) => naming.tell(&mut parts.headers),
            None if self.aliases.load().is_some() => naming::untold(&mut parts.headers),
            None => {}
        }
        // Only the frontend explains its choices.
        parts.headers.remove(X_DYNAMO_EXPLAIN);
        if let Some(choice) = place.choice() {
            record.expected_cached(choice.known_tokens);
            if explains && let Ok(explanation) = HeaderValue::try_from(choice.to_string()) {
                parts.headers.insert(X_DYNAMO_EXPLAIN, explanation);
            }
        }
        debug!(request_id = ?id, path = route.path(), status = parts.status.as_u16(), "answering");
        let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
        headers::for_client(&mut parts);
        let media = Media::of(&parts.headers);
        let is_stream = media == Media::Events;
        if is_stream {
            headers::pass_events(&mut parts.headers);
        }
        let follows = is_stream && may_put_in(&parts.headers);
        let silence = self.sse_keepalive.filter(|_| follows);
        let events = follows.then(|| EventStream::new(route, !chunked));
        let rename = naming.as_ref().and_then(|naming| naming.rename.clone());
        let series = origin.map(|origin| origin.tokens).filter(|_| self.usage != UsageMode::Off);
        let metered = permit.as_ref().is_some_and(|permit| permit.reservation().is_some());
        let counts = series.is_some() || metered;
        let reading = if (counts || rename.is_some()) && parts.status.is_success() {
            let form = Reading::form(media, &parts.headers);
            if counts {
                record.reads(form, series);
            }
            Reading::new(form, route, asked, metered, rename)
        } else {
            Reading::Nothing
        };
        if reading.edits() {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        parts.extensions.insert(Served { model, worker: place.upstream().clone() });
        if connection.is_ended() && record.ended() {
            permit.iter_mut().for_each(Permit::succeeded);
        }
        let passage = Passage {
            answer: Answer::new(connection, place),
            reading,
            events,
            keep_alive: silence.map(|silence| Box::new(KeepAlive::new(silence))),
            shape: route.error_shape(),
            record,
            permit,
            reserved: metered.then_some(0),
            pace: Pace::default(),
            settled: false,
            request_id: id.clone(),
            patience: Patience::new(self.idle_stream.now()),
            phase: Phase::Flowing,
        };
        Response::from_parts(parts, axum::body::Body::new(passage))
    }
}

/// Notes the size of a body that is there.
fn sent(response: Response, record: &mut Record) -> Response {
    record.note(|told| told.sent(response.body().size_hint().lower()));
    response
}

/// A body with another name of its model.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn renamed(body: &[u8], place: std::ops::Range<usize>, name: Bytes) -> Vec<u8> {
    let mut edits = Edits::default();
    edits.replace(place, name);
    edits.copy(body).to_vec()
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

/// Whether something can be put into a stream: its bytes are plain and not counted.
fn may_put_in(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CONTENT_ENCODING) && !headers.contains_key(header::CONTENT_LENGTH)
}
