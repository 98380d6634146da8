//! What a server needs of a service.

use std::convert::Infallible;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use tower_service::Service;

/// What [`serve`](super::serve) needs of a service.
pub(super) trait Answers:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}
