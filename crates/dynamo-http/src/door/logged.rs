//! The access log of what does not reach the proxy: refusals, and pages.

use std::borrow::Cow;
use std::time::Instant;

use axum::response::Response;
use http::Request;
use http_body::Body as _;

use crate::access::Caller;
use crate::meter::{AccessEnd, AccessLog, AccessRecord, cut};
use crate::proxy::RequestId;
use crate::route::Route;

/// The pages that machines ask for all the time. No line of theirs would tell anything.
const SILENT: [&str; 4] = ["/live", "/ready", "/health", "/metrics"];

/// A request that does not reach the proxy. It gets its line with its answer.
pub(super) struct Logged {
    log: AccessLog,
    record: Box<AccessRecord>,
    began: Instant,
}

impl Logged {
    /// What is known of a request before it is answered. `None` where it has no line.
    pub(super) fn of<B>(log: Option<&AccessLog>, request: &Request<B>) -> Option<Self> {
        let log = log?;
        let path = request.uri().path();
        if SILENT.contains(&path) {
            return None;
        }
        let path = match Route::at(path) {
            Some(route) => Cow::Borrowed(route.path()),
            None => Cow::Owned(cut(path).to_owned()),
        };
        let (headers, extensions) = (request.headers(), request.extensions());
        let mut record = AccessRecord::of_head(request.method(), path, headers, extensions);
        let id = RequestId::given(headers).and_then(|id| id.to_str().ok());
        record.request_id = id.map(Into::into);
        record.key = Caller::of(extensions).key().cloned();
        Some(Self { log: log.clone(), record, began: Instant::now() })
    }

    /// Writes the line of an answer. `code` is that of an error of our own.
    pub(super) fn answered(mut self, response: &Response, code: Option<Cow<'static, str>>) {
        self.record.status = Some(response.status());
        self.record.error = code;
        self.record.bytes_out = response.body().size_hint().lower();
        self.record.total = self.began.elapsed();
        self.record.end = AccessEnd::Complete;
        self.log.take(self.record);
    }
}
