//! What a caller sees: a view, and of that the models that the caller may use.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use dynamo_discovery::{Kind, Kinds};
use dynamo_namespace::NamespaceScope;
use http::StatusCode;
use http::request::Parts;

use super::live::LiveView;
use super::model::Model;
use super::names::ModelNames;
use super::view::View;
use crate::error::ApiError;

/// Through which a caller sees models: the view of a scope, and optionally the names of the models
/// that the caller may use. All other models are unknown to the caller.
///
/// Handlers and gates get a lens and never the view behind it, so none of them can forget the names.
/// A clone is the same lens.
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

    /// What the caller sees now. A request that holds it sees no change until it looks again.
    #[must_use]
    pub fn look(&self) -> Sight {
        Sight { view: self.live.load(), names: self.names.clone() }
    }

    /// Looks at what the caller sees now, without a reference that threads share.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Sight<&View>) -> T) -> T {
        self.live.read(|view| look(&Sight { view, names: self.names.clone() }))
    }

    /// The view behind the lens, for whoever must follow it and shows nothing of it.
    pub(crate) fn live(&self) -> &LiveView {
        &self.live
    }
}

/// What a caller sees at one moment, by [`Lens::look`].
///
/// As an argument of an axum handler it is the sight under which a [`GateLayer`](super::GateLayer)
/// let the request in.
#[derive(Clone)]
pub struct Sight<V = Arc<View>> {
    view: V,
    names: Option<ModelNames>,
}

impl<V: Deref<Target = View>> Sight<V> {
    /// The scope in which the caller looks.
    #[must_use]
    pub fn scope(&self) -> &NamespaceScope {
        self.view.scope()
    }

    /// Whether every source has told once what there is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.view.is_ready()
    }

    /// Whether a model of this kind is there.
    #[must_use]
    pub fn is_open(&self, kind: Kind) -> bool {
        match self.names {
            None => self.view.is_open(kind),
            Some(_) => self.models().any(|model| model.kinds().contains(kind)),
        }
    }

    /// The kinds of which a model is there.
    #[must_use]
    pub fn open_kinds(&self) -> Kinds {
        match self.names {
            None => self.view.open_kinds(),
            Some(_) => self.models().fold(Kinds::NONE, |kinds, one| kinds | one.kinds()),
        }
    }

    /// The model of this name, if it opens a route.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.view.model(name).filter(|_| self.may_use(name))
    }

    /// The models that open a route, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.view.models().filter(|model| self.may_use(model.name()))
    }

    fn may_use(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Lets a request for a route of this kind in, or says why not.
    ///
    /// # Errors
    ///
    /// 503 when the route is closed, or when it is not known yet whether it is.
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
            let message = "The route has no gate, so nothing says what a caller may see.";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    }
}
