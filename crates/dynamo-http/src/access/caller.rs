//! The caller of a request, by its key.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Extensions, HeaderMap};

use super::budget::TokenLimits;
use super::ledger::Amount;
use super::limit::Permit;
use super::tenant::Tenant;
use crate::error::{ApiError, ErrorShape};
use crate::priority::Priority;
use crate::view::Lens;

/// The caller of a request: the owner of its key; none where no key is required.
///
/// Handlers take it as an argument.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(super) Option<Arc<Tenant>>);

impl Caller {
    /// The caller that [`admit`](super::admit) has found.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self(None))
    }

    /// The lens of the key, where a key is required.
    pub(crate) fn lens(&self) -> Option<&Lens> {
        self.0.as_ref().map(|tenant| &tenant.lens)
    }

    /// The name of the key, where a key is required.
    pub(crate) fn key(&self) -> Option<&Arc<str>> {
        self.0.as_ref().map(|tenant| tenant.name.shared())
    }

    /// Whether the caller may ask how the worker of a request was chosen.
    pub(crate) fn may_explain(&self) -> bool {
        self.0.as_ref().is_some_and(|tenant| tenant.explain)
    }

    /// The class of a request that names none.
    pub(crate) fn priority(&self) -> Priority {
        self.0.as_ref().map_or_else(Priority::default, |tenant| tenant.priority)
    }

    /// Whether the caller has a key that lets requests name their classes.
    pub(crate) fn may_prioritize(&self) -> bool {
        self.0.as_ref().is_some_and(|tenant| tenant.priority_header)
    }

    /// Begins a request that counts against the limits of the key.
    ///
    /// # Errors
    ///
    /// 429 while the requests of the key are at a limit.
    pub(crate) fn begin(&self) -> Result<Option<Permit>, ApiError> {
        self.0.as_deref().map(Tenant::begin).transpose()
    }

    /// The limits on the tokens of the key, if it has any.
    pub(crate) fn token_limits(&self) -> Option<&TokenLimits> {
        self.0.as_ref().map(|tenant| &tenant.tokens).filter(|limits| !limits.is_empty())
    }

    /// Reserves the tokens of a request, where the key has limits on tokens.
    ///
    /// # Errors
    ///
    /// 429 while a limit forbids it.
    pub(crate) fn reserve(
        &self,
        permit: Option<&mut Permit>,
        estimate: Amount,
    ) -> Result<(), ApiError> {
        match (&self.0, permit) {
            (Some(tenant), Some(permit)) => tenant.reserve(permit, estimate),
            _ => Ok(()),
        }
    }

    /// Puts the limits of the key into the headers of an answer, in place of a worker's. Callers
    /// without a key get a worker's own.
    pub(crate) fn tell_limits(&self, headers: &mut HeaderMap, shape: ErrorShape) {
        if let Some(tenant) = &self.0 {
            tenant.tell_limits(headers, shape);
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}
