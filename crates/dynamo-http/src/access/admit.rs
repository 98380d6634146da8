//! Asking for a key before anything else is told.

use http::Request;

use super::caller::Caller;
use super::keys::{ApiKeys, take_out};
use crate::error::{ApiError, ErrorShape};
use crate::route::Route;

/// What probes ask, which have no key.
const OPEN: [&str; 2] = ["/live", "/ready"];

/// Lets in only what has a valid key, and notes whose it is. The key goes no further.
///
/// # Errors
///
/// 401, in the shape that the route's clients understand.
pub(crate) fn admit<B>(keys: &ApiKeys, request: &mut Request<B>) -> Result<(), ApiError> {
    let path = request.uri().path();
    if OPEN.contains(&path) {
        return Ok(());
    }
    let tenant = keys.authenticate(request.headers()).map_err(|error| {
        let shape = Route::at(path).map_or(ErrorShape::OpenAi, Route::error_shape);
        error.with_shape(shape)
    })?;
    take_out(request.headers_mut());
    request.extensions_mut().insert(Caller(Some(tenant)));
    Ok(())
}
