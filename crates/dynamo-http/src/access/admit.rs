//! The check of the key, which comes before any other answer.

use http::Request;

use super::caller::Caller;
use super::keys::{ApiKeys, take_out};
use crate::client_name::ClientName;
use crate::error::{ApiError, ErrorShape};
use crate::route::Route;

/// The paths of probes, which have no key.
const OPEN: [&str; 2] = ["/live", "/ready"];

/// Admits a request with a valid key, and puts its [`Caller`] into the extensions. The key is
/// removed from the request, so that no worker gets it.
///
/// # Errors
///
/// 401, in the shape that the route's clients understand.
pub(crate) fn admit<B>(keys: &ApiKeys, request: &mut Request<B>) -> Result<(), ApiError> {
    let path = request.uri().path();
    if OPEN.contains(&path) {
        return Ok(());
    }
    let client = request.extensions().get::<ClientName>();
    let tenant = keys.authenticate(request.headers(), client).map_err(|error| {
        let shape = Route::at(path).map_or(ErrorShape::OpenAi, Route::error_shape);
        error.with_shape(shape)
    })?;
    take_out(request.headers_mut());
    request.extensions_mut().insert(Caller(Some(tenant)));
    Ok(())
}
