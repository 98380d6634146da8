//! The layer that asks for a key before anything else is told.

use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::{Either, Ready, ready};
use tower_layer::Layer;
use tower_service::Service;

use super::Caller;
use super::keys::{ApiKeys, take_out};
use crate::error::ErrorShape;
use crate::route::Route;

/// What probes ask, which have no key.
const OPEN: [&str; 2] = ["/live", "/ready"];

/// Lets in only what has a valid key, and tells the handlers whose it is. The key goes no further.
#[derive(Clone, Debug)]
pub(crate) struct RequireKey {
    keys: ApiKeys,
}

impl RequireKey {
    pub(crate) fn new(keys: ApiKeys) -> Self {
        Self { keys }
    }
}

impl<S> Layer<S> for RequireKey {
    type Service = KeyRequired<S>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyRequired { inner, keys: self.keys.clone() }
    }
}

/// The service that [`RequireKey`] makes.
#[derive(Clone, Debug)]
pub(crate) struct KeyRequired<S> {
    inner: S,
    keys: ApiKeys,
}

impl<S> Service<Request> for KeyRequired<S>
where
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let path = request.uri().path();
        if OPEN.contains(&path) {
            return Either::Left(self.inner.call(request));
        }
        match self.keys.authenticate(request.headers()) {
            Ok(tenant) => {
                take_out(request.headers_mut());
                request.extensions_mut().insert(Caller(Some(tenant)));
                Either::Left(self.inner.call(request))
            }
            Err(error) => {
                let messages = path == Route::Messages.path();
                let shape = if messages { ErrorShape::Anthropic } else { ErrorShape::OpenAi };
                Either::Right(ready(Ok(error.with_shape(shape).into_response())))
            }
        }
    }
}
