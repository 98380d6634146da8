//! Errors as HTTP answers, in the shapes that clients understand.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

/// The API whose clients read the error, which decides the shape of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"error":{"message","type","param","code"}}`, of the OpenAI API reference.
    #[default]
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`, of the Anthropic API reference.
    Anthropic,
}

/// An error that a front door, a gate or a handler answers. A front door passes the errors of
/// workers through as they are.
///
/// As an axum response it has the status, a JSON body in the chosen shape, `Retry-After` with 503
/// and 429 unless it is [left out](Self::without_retry_after), and `WWW-Authenticate` with 401. The status decides the `type` in the body. No message
/// of this crate names a worker or another namespace.
///
/// ```
/// use dynamo_http::{ApiError, ErrorShape};
/// use http::StatusCode;
///
/// let error = ApiError::new(StatusCode::NOT_FOUND, "The model 'm' does not exist.")
///     .with_code("model_not_found")
///     .with_param("model");
/// assert_eq!(error.to_json()["error"]["code"], "model_not_found");
/// let error = error.with_shape(ErrorShape::Anthropic);
/// assert_eq!(error.to_json()["error"]["type"], "not_found_error");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ApiError {
    status: StatusCode,
    code: Option<Cow<'static, str>>,
    param: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    shape: ErrorShape,
    /// How long a client should wait before it asks again, in seconds; none where that is no use.
    retry_after: Option<u32>,
    /// Whether clients are asked not to send the request again by themselves.
    final_answer: bool,
}

impl ApiError {
    /// An error with a status and a message, in OpenAI's shape.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code: None,
            param: None,
            message: message.into(),
            shape: ErrorShape::default(),
            retry_after: Some(1),
            final_answer: false,
        }
    }

    /// The same error with OpenAI's `code`. Anthropic's shape has none.
    pub fn with_code(self, code: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same error with OpenAI's `param`: the field of the request that was wrong. Anthropic's
    /// shape has none.
    pub fn with_param(self, param: impl Into<Cow<'static, str>>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// The same error with another `Retry-After`: `wait`, rounded up to whole seconds, at least
    /// one. Only 503 and 429 have the header. Default one second.
    pub fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).max(1);
        Self { retry_after: Some(seconds), ..self }
    }

    /// The same error without `Retry-After`: the same request fails until somebody changes
    /// something.
    pub fn without_retry_after(self) -> Self {
        Self { retry_after: None, ..self }
    }

    /// The same error without `Retry-After` and with `x-should-retry: false`, by which the libraries
    /// of OpenAI and Anthropic know that they are not to send the request again. For a 429 that no
    /// short wait changes.
    pub fn without_retry(self) -> Self {
        Self { retry_after: None, final_answer: true, ..self }
    }

    /// The same error in another shape.
    pub fn with_shape(self, shape: ErrorShape) -> Self {
        Self { shape, ..self }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// OpenAI's `code`, if there is one.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The same, for longer than the error lives.
    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "for an access log"))]
    pub(crate) fn shared_code(&self) -> Option<Cow<'static, str>> {
        self.code.clone()
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The answer of a closed route until every source has delivered its first list.
    pub(crate) fn not_ready() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Model discovery is still starting; try again shortly.",
        )
        .with_code("discovery_not_ready")
    }

    /// The answer of a closed route from then on.
    pub(crate) fn endpoint_disabled() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "No model is currently available for this endpoint.",
        )
        .with_code("endpoint_disabled")
    }

    /// The answer for a model that was here a moment ago, or for which a request has waited.
    #[cfg(feature = "proxy")]
    pub(crate) fn model_unavailable(name: &str) -> Self {
        let message =
            format!("The model '{name}' is not available at the moment; try again shortly.");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .with_code("model_unavailable")
            .with_param("model")
            .with_retry_after(Duration::from_secs(5))
    }

    /// The listener has as many connections as it takes.
    #[cfg_attr(not(feature = "serve"), expect(dead_code, reason = "a listener's answer"))]
    pub(crate) fn too_many_connections() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "There are too many connections; try again shortly.",
        )
        .with_code("overloaded")
    }

    /// The type by which OpenAI's clients choose their exception.
    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The type by which Anthropic's clients choose their exception.
    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body, as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self.shape {
            ErrorShape::OpenAi => json!({
                "error": {
                    "message": self.message,
                    "type": self.openai_type(),
                    "param": self.param,
                    "code": self.code,
                }
            }),
            ErrorShape::Anthropic => json!({
                "type": "error",
                "error": { "type": self.anthropic_type(), "message": self.message },
            }),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.final_answer {
            let name = HeaderName::from_static("x-should-retry");
            headers.insert(name, HeaderValue::from_static("false"));
        }
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                if let Some(seconds) = self.retry_after {
                    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                }
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_5xx_is_a_server_error_to_openai_clients() {
        for (status, expected) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (404, "invalid_request_error"),
            (405, "invalid_request_error"),
            (413, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "server_error"),
            (502, "server_error"),
            (503, "server_error"),
            (504, "server_error"),
        ] {
            let error = ApiError::new(StatusCode::from_u16(status).unwrap(), "m").with_code("c");
            assert_eq!(
                error.to_json(),
                json!({"error": {"message": "m", "type": expected, "param": null, "code": "c"}})
            );
        }
    }

    #[test]
    fn anthropic_clients_get_their_own_shape() {
        let error = ApiError::endpoint_disabled().with_shape(ErrorShape::Anthropic);
        assert_eq!(error.to_json()["type"], "error");
        assert_eq!(error.to_json()["error"]["type"], "overloaded_error");
    }

    #[test]
    fn every_503_and_429_says_when_to_try_again() {
        for (status, expected) in [(503, true), (429, true), (502, false), (404, false)] {
            let error = ApiError::new(StatusCode::from_u16(status).unwrap(), "m");
            let response = error.into_response();
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), expected, "{status}");
        }
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "m");
        for (wait, expected) in [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (60.0, "60")] {
            let error = error.clone().with_retry_after(Duration::from_secs_f64(wait));
            assert_eq!(error.into_response().headers()[header::RETRY_AFTER], expected);
        }
        let response = error.clone().without_retry_after().into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        assert!(!response.headers().contains_key("x-should-retry"));
        let response = error.without_retry().into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(response.headers()["x-should-retry"], "false");
    }

    #[test]
    fn every_401_says_what_kind_of_key_is_wanted() {
        let response = ApiError::new(StatusCode::UNAUTHORIZED, "m").into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
