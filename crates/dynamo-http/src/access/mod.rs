//! Who may ask, for which models, and how often.
//!
//! Without keys everyone may ask for everything in the frontend's scope. With them a request's key
//! decides which view it gets; whatever has no key gets a view in which nothing is.

mod admit;
mod hash;
mod keys;
mod limit;
mod list;
mod metrics;

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::Extensions;
use http::request::Parts;

pub(crate) use self::admit::admit;
pub use self::hash::{InvalidKeyHash, KeyHash, WeakKey};
pub use self::keys::ApiKeys;
pub(crate) use self::keys::Tenant;
pub(crate) use self::limit::Slot;
pub use self::list::{ApiKey, InvalidKeyName, InvalidKeys, KeyList, KeyName};
use crate::error::ApiError;

/// Who sent a request, as its key says.
///
/// Handlers take it as an argument.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Option<Arc<Tenant>>);

impl Caller {
    /// The one whom [`admit`] has found; no one in particular where no key is required.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self(None))
    }

    /// The owner of the key, where one is required.
    pub(crate) fn tenant(&self) -> Option<&Tenant> {
        self.0.as_deref()
    }

    /// Begins a request that counts against the limits of the key.
    ///
    /// # Errors
    ///
    /// 429 while there are too many of them.
    pub(crate) fn begin(&self) -> Result<Option<Slot>, ApiError> {
        self.tenant().map(Tenant::begin).transpose()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}
