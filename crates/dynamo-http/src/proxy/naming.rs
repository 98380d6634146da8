//! How the answer to a request for an alias names the model.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::alias::{Alias, AliasTarget};

/// The header with the name of the model that has answered.
const X_DYNAMO_MODEL: HeaderName = HeaderName::from_static("x-dynamo-model");
/// The header that says that a fallback has answered.
const X_DYNAMO_FALLBACK: HeaderName = HeaderName::from_static("x-dynamo-fallback");

/// How an answer names the model.
#[derive(Clone, Debug)]
pub(crate) struct Naming {
    /// What replaces the model's name in the body, as a JSON string. None: the body stays.
    pub(crate) rename: Option<Bytes>,
    model: Option<HeaderValue>,
    falls_back: bool,
}

impl Naming {
    pub(crate) fn new(alias: &Alias, target: &AliasTarget, falls_back: bool) -> Self {
        let rename = alias.answers_as(target).cloned();
        Self { rename, model: target.header().cloned(), falls_back }
    }

    /// Tells the client which model has answered, and whether that is a fallback.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        untold(headers);
        if let Some(model) = &self.model {
            headers.insert(X_DYNAMO_MODEL, model.clone());
        }
        if self.falls_back {
            headers.insert(X_DYNAMO_FALLBACK, HeaderValue::from_static("1"));
        }
    }
}

/// Removes what a worker says in these headers, since only the frontend knows.
pub(crate) fn untold(headers: &mut HeaderMap) {
    headers.remove(X_DYNAMO_MODEL);
    headers.remove(X_DYNAMO_FALLBACK);
}
