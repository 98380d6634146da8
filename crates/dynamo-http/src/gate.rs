//! A layer that opens and closes the routes of anyone's own router.

use std::task::{Context, Poll};

use axum::response::{IntoResponse as _, Response};
use dynamo_discovery::Kind;
use dynamo_namespace::NamespaceScope;
use futures_util::future::{Either, Ready, ready};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::ErrorShape;
use crate::switchboard::Switchboard;

/// Lets requests through while a model of `kind` is in scope; answers 503 before the body is read
/// while none is.
///
/// ```
/// use axum::{Router, routing::post};
/// use dynamo_discovery::Kind;
/// use dynamo_http::{Switchboard, gate};
/// use dynamo_namespace::NamespaceScope;
///
/// let (switchboard, writer) = Switchboard::new([NamespaceScope::All]);
/// let router: Router = Router::new()
///     .route("/v1/chat/completions", post(|| async { "my own handler" }))
///     .route_layer(gate(&switchboard, &NamespaceScope::All, Kind::Chat));
/// # let _ = (router, writer);
/// ```
#[must_use]
pub fn gate(switchboard: &Switchboard, scope: &NamespaceScope, kind: Kind) -> GateLayer {
    GateLayer {
        switchboard: switchboard.clone(),
        scope: scope.clone(),
        kind,
        shape: ErrorShape::default(),
    }
}

/// The layer that [`gate`] makes.
#[derive(Clone, Debug)]
pub struct GateLayer {
    switchboard: Switchboard,
    scope: NamespaceScope,
    kind: Kind,
    shape: ErrorShape,
}

impl GateLayer {
    /// The same, with errors for other clients. Default OpenAI's.
    #[must_use]
    pub fn with_error_shape(self, shape: ErrorShape) -> Self {
        Self { shape, ..self }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate { inner, layer: self.clone() }
    }
}

/// The service that [`GateLayer`] makes.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    layer: GateLayer,
}

impl<S, R> Service<R> for Gate<S>
where
    S: Service<R, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let GateLayer { switchboard, scope, kind, shape } = &self.layer;
        match switchboard.view(scope).admit(*kind) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(error) => Either::Right(ready(Ok(error.with_shape(*shape).into_response()))),
        }
    }
}
