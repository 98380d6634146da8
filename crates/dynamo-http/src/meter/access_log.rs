//! What an access log is told of each request.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dynamo_discovery::WorkerUrl;
use dynamo_namespace::Namespace;
use http::{Extensions, HeaderMap, Method, StatusCode};

use super::trace_id::{TraceId, trace_of};
use super::usage::Usage;
use crate::client_address::ClientAddress;
use crate::priority::Priority;

/// Where the facts of each ended request go.
///
/// Without an access log nothing is collected.
///
/// ```
/// use std::sync::mpsc;
///
/// use dynamo_http::{AccessLog, FrontendConfig};
///
/// let (sender, ended) = mpsc::sync_channel(1024);
/// // A full channel loses a record, and does not make a request wait.
/// let log = AccessLog::new(move |record| drop(sender.try_send(record)));
/// let config = FrontendConfig::new().with_access_log(Some(log));
/// # let _ = (config, ended);
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("AccessLog")]
pub struct AccessLog {
    take: Arc<dyn Fn(Box<AccessRecord>) + Send + Sync>,
}

impl AccessLog {
    /// A log that hands each record to a function. Threads that serve requests call the function, so
    /// it must not block.
    pub fn new(take: impl Fn(Box<AccessRecord>) + Send + Sync + 'static) -> Self {
        Self { take: Arc::new(take) }
    }

    pub(crate) fn take(&self, record: Box<AccessRecord>) {
        (self.take)(record);
    }
}

/// The facts of one request that has ended. No text of a prompt or an answer, no query and no key is
/// among them.
///
/// Texts that a client chose are cut at [`LONGEST`](Self::LONGEST) characters, and may hold any
/// character.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessRecord {
    /// When the head of the request was there.
    pub began: SystemTime,
    /// From where the connection comes, where the server tells it.
    pub client: Option<IpAddr>,
    /// The id of the request, which the answer carries. `None` for a request that was refused before
    /// it got one, and gave none.
    pub request_id: Option<Box<str>>,
    /// The id of the trace that the client's `traceparent` names, or that the request has begun.
    pub trace_id: Option<TraceId>,
    /// The name of the caller's key.
    pub key: Option<Arc<str>>,
    /// The namespace of the server that answered, or that was tried last.
    pub namespace: Option<Namespace>,
    /// The name of the model that the client asked for.
    pub model_asked: Option<Arc<str>>,
    /// The name of the model that answered.
    pub model_served: Option<Arc<str>>,
    /// The method.
    pub method: Cow<'static, str>,
    /// The path, without the query.
    pub path: Cow<'static, str>,
    /// The server that answered, or that was tried last.
    pub worker: Option<WorkerUrl>,
    /// The status that the client was sent. `None` when the client left before.
    pub status: Option<StatusCode>,
    /// The `code` of an error of the front door's own.
    pub error: Option<Cow<'static, str>>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// The bytes of the request's body, as they came; 0 for a body that was not read to its end.
    pub bytes_in: u64,
    /// The bytes of the answer's body that were handed to the connection.
    pub bytes_out: u64,
    /// The class of the request. `None` where requests have no classes, and for a request that was
    /// refused before its class was known.
    pub priority: Option<Priority>,
    /// How long the request waited for a place at a server.
    pub queued: Duration,
    /// From the head of the request to the first content of the answer. `None` if no content came, or
    /// the answer was not read.
    pub first_token: Option<Duration>,
    /// The longest time between two pieces of an answer with content.
    pub largest_gap: Duration,
    /// From the head of the request to the end of its answer.
    pub total: Duration,
    /// The tokens of the prompt, with those from a cache.
    pub input_tokens: Option<u64>,
    /// The tokens of the prompt that came from a cache.
    pub cached_tokens: Option<u64>,
    /// The tokens of the answer.
    pub output_tokens: Option<u64>,
    /// Whether `output_tokens` is the number of events with content, since the engine told none.
    pub is_estimated: bool,
    /// How often the request was sent to a server, failed connects included.
    pub attempts: u32,
    /// How the answer ended.
    pub end: AccessEnd,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEnd {
    /// The answer was sent in full.
    Complete,
    /// The worker failed in the middle of its answer, so the connection was cut.
    Cut,
    /// The client left before the answer was complete, or did not take it in time.
    ClientGone,
}

impl AccessEnd {
    /// The name in an access log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cut => "cut",
            Self::ClientGone => "client_gone",
        }
    }
}

impl AccessRecord {
    /// The most characters of a text that a client chose.
    pub const LONGEST: usize = 128;

    /// A request of which nothing else is known, and whose client has left. The front door fills in
    /// what it finds out.
    pub fn new(
        began: SystemTime,
        method: impl Into<Cow<'static, str>>,
        path: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            began,
            client: None,
            request_id: None,
            trace_id: None,
            key: None,
            namespace: None,
            model_asked: None,
            model_served: None,
            method: method.into(),
            path: path.into(),
            worker: None,
            status: None,
            error: None,
            stream: false,
            bytes_in: 0,
            bytes_out: 0,
            priority: None,
            queued: Duration::ZERO,
            first_token: None,
            largest_gap: Duration::ZERO,
            total: Duration::ZERO,
            input_tokens: None,
            cached_tokens: None,
            output_tokens: None,
            is_estimated: false,
            attempts: 0,
            end: AccessEnd::ClientGone,
        }
    }

    /// What the head of a request says.
    pub(crate) fn of_head(
        method: &Method,
        path: Cow<'static, str>,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Box<Self> {
        let method = match *method {
            Method::POST => Cow::Borrowed("POST"),
            Method::GET => Cow::Borrowed("GET"),
            _ => Cow::Owned(cut(method.as_str()).to_owned()),
        };
        Box::new(Self {
            client: extensions.get::<ClientAddress>().map(|address| address.0),
            trace_id: trace_of(headers),
            ..Self::new(SystemTime::now(), method, path)
        })
    }

    /// Notes the name that the client asked for. `known` is the same name where there is such a model.
    pub(super) fn asks(&mut self, name: &str, known: Option<&Arc<str>>) {
        let cut = cut(name);
        self.model_asked = Some(match known {
            Some(known) if **known == *cut => known.clone(),
            _ => cut.into(),
        });
    }

    pub(super) fn used(&mut self, usage: Usage, is_estimated: bool) {
        self.input_tokens = usage.input;
        self.cached_tokens = usage.cached;
        self.output_tokens = usage.output;
        self.is_estimated = is_estimated;
    }
}

/// The first characters of a text that a client chose.
pub(crate) fn cut(text: &str) -> &str {
    if text.len() <= AccessRecord::LONGEST {
        return text;
    }
    let end = text.char_indices().nth(AccessRecord::LONGEST);
    end.map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(cut("a"), "a");
        assert_eq!(cut(&"a".repeat(129)), "a".repeat(128));
        assert_eq!(cut(&"ü".repeat(128)), "ü".repeat(128));
        assert_eq!(cut(&"\u{1f600}".repeat(100_000)), "\u{1f600}".repeat(128));
    }
}
