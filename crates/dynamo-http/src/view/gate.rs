//! A layer that opens and closes the routes of any axum router.

use std::task::{Context, Poll};

use axum::response::{IntoResponse as _, Response};
use dynamo_discovery::Kind;
use futures_util::future::{Either, Ready, ready};
use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::lens::Lens;
use crate::error::{ApiError, ErrorShape};

/// Admits requests while a caller of this lens sees a model of `kind`. While there is none, the
/// gate answers 503 before the body is read.
///
/// A handler behind the gate may take the [`Sight`](super::Sight) under which the gate admitted the
/// request.
///
/// ```
/// use axum::{Router, routing::post};
/// use dynamo_discovery::Kind;
/// use dynamo_http::{Sight, Switchboard, gate};
/// use dynamo_namespace::NamespaceScope;
///
/// let (switchboard, writer) = Switchboard::new([NamespaceScope::All]);
/// let live = switchboard.live_view(&NamespaceScope::All);
/// let router: Router = Router::new()
///     .route("/v1/chat/completions", post(async |sight: Sight| format!("{sight:?}")))
///     .route_layer(gate(live, Kind::Chat));
/// # let _ = (router, writer);
/// ```
pub fn gate(lens: impl Into<Lens>, kind: Kind) -> GateLayer {
    GateLayer { lens: Some(lens.into()), ..GateLayer::per_caller(kind) }
}

/// The layer that [`gate`] makes.
#[derive(Clone, Debug)]
#[must_use]
pub struct GateLayer {
    /// None: the lens in the extensions of each request.
    lens: Option<Lens>,
    kind: Kind,
    shape: ErrorShape,
}

impl GateLayer {
    /// A gate whose callers see different models. A middleware around the gate puts a [`Lens`] into
    /// the extensions of each request. A request without a lens finds every route closed.
    ///
    /// The example `gate` of this crate is such an app.
    pub fn per_caller(kind: Kind) -> Self {
        Self { lens: None, kind, shape: ErrorShape::default() }
    }

    /// The same gate with errors in another shape. Default OpenAI's.
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

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let GateLayer { lens, kind, shape } = &self.layer;
        let sight = lens.as_ref().or_else(|| request.extensions().get()).map(Lens::look);
        let admitted = match &sight {
            Some(sight) => sight.admit(*kind),
            None => Err(ApiError::endpoint_disabled()),
        };
        match admitted {
            Ok(()) => {
                request.extensions_mut().insert(sight.unwrap_or_else(|| unreachable!("admitted")));
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(ready(Ok(error.with_shape(*shape).into_response()))),
        }
    }
}
