//! Web pages of other origins: which may use the front door (the Fetch standard's CORS protocol).

use std::time::Duration;

use dynamo_http::FrontendService;
use http::{HeaderName, Method, Request, header};
use tower::Layer as _;
use tower::util::MapRequest;
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

use crate::settings::origin::WebOrigin;

/// How long a browser may remember what it was allowed: what all browsers accept.
const REMEMBERED: Duration = Duration::from_secs(600);
/// What pages may read of an answer, beside what they always may.
const READABLE: [HeaderName; 5] = [
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-dynamo-explain"),
    HeaderName::from_static("x-dynamo-model"),
    HeaderName::from_static("x-dynamo-fallback"),
];

type WithoutOrigin<S, B> = MapRequest<S, fn(Request<B>) -> Request<B>>;

/// A front door for pages of these origins as well.
///
/// It answers preflights itself, before a key is asked for, since browsers send none with them. All
/// answers carry the headers, refusals included: without them a page cannot read why it was refused.
/// No cookie is ever taken, so credentials are not allowed. Workers never see the origin: an engine
/// with rules of its own would refuse what was allowed here, or allow more.
pub(super) fn layered<B>(
    service: FrontendService,
    origins: Vec<WebOrigin>,
) -> Cors<WithoutOrigin<FrontendService, B>> {
    let named = origins.into_iter().map(|origin| match origin {
        WebOrigin::All => None,
        WebOrigin::One(origin) => Some(origin),
    });
    let allowed = match named.collect::<Option<Vec<_>>>() {
        Some(named) => AllowOrigin::list(named),
        None => AllowOrigin::any(),
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        // `*` would not stand for Authorization.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(READABLE)
        .max_age(REMEMBERED)
        .layer(MapRequest::new(service, without_origin))
}

fn without_origin<B>(mut request: Request<B>) -> Request<B> {
    request.headers_mut().remove(header::ORIGIN);
    request
}
