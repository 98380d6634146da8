//! The models that one caller sees: those of a view, and of these optionally the models of some
//! names.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use dynamo_discovery::{Kind, Kinds};
use dynamo_namespace::{Namespace, NamespaceScope};
use http::StatusCode;
use http::request::Parts;

use super::live::LiveView;
use super::model::Model;
use super::names::ModelNames;
use super::view::View;
use crate::error::ApiError;

/// The models that a caller may see, as they are now: those in the view of a scope, and of these
/// optionally the models of some names. For the caller no other model exists.
///
/// Handlers and gates get a lens and no view, so none of them can forget the names. A clone is the
/// same lens.
#[derive(Clone, Debug)]
pub struct Lens {
    live: LiveView,
    names: Option<ModelNames>,
}

impl From<LiveView> for Lens {
    fn from(live: LiveView) -> Self {
        Self { live, names: None }
    }
}

impl Lens {
    /// The same lens for a caller that may use the models of these names only.
    #[must_use]
    pub fn with_names(self, names: ModelNames) -> Self {
        Self { names: Some(names), ..self }
    }

    /// The models that the caller sees now. A request that holds the sight sees no change until it
    /// looks again.
    pub fn look(&self) -> Sight {
        Sight { view: self.live.load(), names: self.names.clone() }
    }

    /// Lends the caller's sight of this moment. Unlike [`look`](Self::look), it counts no reference
    /// to the view, since all threads would share the counter.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Sight<&View>) -> T) -> T {
        self.live.read(|view| look(&Sight { view, names: self.names.clone() }))
    }

    /// The view behind the lens, for code that follows the view and shows nothing of it.
    pub(crate) fn live(&self) -> &LiveView {
        &self.live
    }
}

/// The models that a caller sees at one moment. [`Lens::look`] makes it.
///
/// As an argument of an axum handler it is the sight under which a [`GateLayer`](super::GateLayer)
/// admitted the request. On a route without a gate such a handler answers 500; a handler that takes
/// an `Option<Sight>` gets `None`.
#[derive(Clone)]
pub struct Sight<V = Arc<View>> {
    view: V,
    names: Option<ModelNames>,
}

impl<V: Deref<Target = View>> Sight<V> {
    /// The scope of the view behind the lens.
    pub fn scope(&self) -> &NamespaceScope {
        self.view.scope()
    }

    /// Whether every source has delivered its first list.
    pub fn is_ready(&self) -> bool {
        self.view.is_ready()
    }

    /// Whether the caller sees a model of this kind.
    pub fn is_open(&self, kind: Kind) -> bool {
        match self.names {
            None => self.view.is_open(kind),
            Some(_) => self.models().any(|model| model.kinds().contains(kind)),
        }
    }

    /// The kinds of the models that the caller sees.
    pub fn open_kinds(&self) -> Kinds {
        match self.names {
            None => self.view.open_kinds(),
            Some(_) => self.models().fold(Kinds::NONE, |kinds, one| kinds | one.kinds()),
        }
    }

    /// The model of this name, if the caller sees it.
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.view.model(name).filter(|_| self.may_use(name))
    }

    /// Whether all models of the view may be used.
    pub(crate) fn has_all_names(&self) -> bool {
        self.names.is_none()
    }

    /// The models that the caller sees, by name. Each opens at least one route.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.view.models().filter(|model| self.may_use(model.name()))
    }

    /// A model that stands behind the name `asked`. The caller needs the permission for the name that
    /// it asks for, and none for the model.
    pub(crate) fn model_behind(&self, asked: &str, name: &str) -> Option<&Arc<Model>> {
        self.view.model(name).filter(|_| self.may_use(asked))
    }

    /// Whether an instance of a model is in doubt; with a namespace, whether one of that is.
    pub(crate) fn is_in_doubt(&self, model: &Model, namespace: Option<&Namespace>) -> bool {
        self.view.is_in_doubt(model, namespace)
    }

    /// How long ago a model that stood behind the name `asked` has left the view; with a namespace, how
    /// long ago its last instance there has. None if the caller may not use the name, and if that was
    /// long ago.
    pub(crate) fn left_since(
        &self,
        asked: &str,
        name: &str,
        namespace: Option<&Namespace>,
    ) -> Option<Duration> {
        let departed = self.may_use(asked).then(|| &self.view.departed)?;
        departed.since(name, namespace, Instant::now())
    }

    /// Whether the caller may use models of this name.
    pub(crate) fn may_use(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Admits a request for a route of this kind.
    ///
    /// # Errors
    ///
    /// 503 while the caller sees no model of the kind: with the code `discovery_not_ready` until
    /// every source has delivered its first list, and `endpoint_disabled` from then on.
    pub fn admit(&self, kind: Kind) -> Result<(), ApiError> {
        if self.is_open(kind) {
            Ok(())
        } else if self.is_ready() {
            Err(ApiError::endpoint_disabled())
        } else {
            Err(ApiError::not_ready())
        }
    }
}

impl<V: Deref<Target = View>> fmt::Debug for Sight<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sight").field("view", &*self.view).field("names", &self.names).finish()
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Sight {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

impl<S: Sync> FromRequestParts<S> for Sight {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            let message = "The route has no gate, so the caller sees no model.";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    }
}
