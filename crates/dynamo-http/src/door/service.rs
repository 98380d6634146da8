//! The front door as a service: proxied routes go to the proxy, all other paths to a router.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::{IntoResponse as _, Response};
use axum::{BoxError, Router};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body::Body;
use tower_service::Service;

use super::logged::Logged;
use super::state::State;
use crate::access::{Caller, admit};
use crate::error::{ApiError, ErrorShape};
use crate::meter::AccessLog;
use crate::route::Route;

/// A front door for [`serve`](crate::serve), or for any other server that takes a tower service.
///
/// [`Frontend::router`](crate::Frontend::router) wraps this service. A request to that router
/// passes axum's routing and boxes first, which costs a tenth of the work of a short request.
///
/// The extensions of a worker's answer hold [`Served`](crate::Served), for a middleware around the
/// service. A clone is the same front door. The service is always ready.
#[derive(Clone, derive_more::Debug)]
#[debug("FrontendService")]
pub struct FrontendService {
    door: Arc<Door>,
}

struct Door {
    state: Arc<State>,
    /// All paths that are not proxied.
    router: Router,
}

impl FrontendService {
    pub(super) fn new(state: Arc<State>, router: Router) -> Self {
        Self { door: Arc::new(Door { state, router }) }
    }
}

/// A future of an answer that is ready. The answer to a HEAD has a length and no body: hyper drops
/// the body in HTTP/1 only.
fn answered(to: &Method, mut response: Response) -> Ready<Result<Response, Infallible>> {
    if to == Method::HEAD {
        let body = std::mem::take(response.body_mut());
        if let Some(length) = body.size_hint().exact() {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    ready(Ok(response))
}

/// The answer to a request that goes no further.
fn refuse<B>(log: Option<&AccessLog>, request: &Request<B>, refused: ApiError) -> Response {
    let (logged, code) = (Logged::of(log, request), refused.shared_code());
    let response = refused.into_response();
    if let Some(logged) = logged {
        logged.answered(&response, code);
    }
    response
}

impl<B> Service<Request<B>> for FrontendService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let log = self.door.state.proxy.access_log.as_ref();
        if let Some(keys) = &self.door.state.keys
            && let Err(refused) = admit(keys, &mut request)
        {
            return Box::pin(answered(request.method(), refuse(log, &request, refused)));
        }
        match Route::at(request.uri().path()) {
            Some(route) if request.method() == Method::POST => {
                let door = self.door.clone();
                let (mut head, body) = request.into_parts();
                Box::pin(async move { Ok(door.state.proxy.serve(route, &mut head, body).await) })
            }
            Some(route) => {
                let refused = method_not_allowed().with_shape(route.error_shape());
                let mut response = refuse(log, &request, refused);
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                let caller = Caller::of(request.extensions());
                caller.tell_limits(response.headers_mut(), route.error_shape());
                Box::pin(answered(request.method(), response))
            }
            None => {
                let logged = Logged::of(log, &request);
                let has_keys = self.door.state.keys.is_some();
                let caller = has_keys.then(|| Caller::of(request.extensions()));
                let answer = self.door.router.clone().call(request);
                if logged.is_none() && caller.is_none() {
                    return Box::pin(answer);
                }
                Box::pin(async move {
                    let mut response = answer.await?;
                    if let Some(caller) = caller {
                        caller.tell_limits(response.headers_mut(), ErrorShape::OpenAi);
                    }
                    if let Some(logged) = logged {
                        logged.answered(&response, None);
                    }
                    Ok(response)
                })
            }
        }
    }
}

/// The answer for a path that has a route, but none for the method.
pub(crate) fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed for this route.")
        .with_code("method_not_allowed")
}
