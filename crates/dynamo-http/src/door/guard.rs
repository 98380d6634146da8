//! Who may read the pages for operators.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::access::{KeyHash, WeakKey};
use crate::error::ApiError;

/// The key of the pages for operators. A clone is the same key.
///
/// Until [`set`](Self::set) is called, no key is right.
///
/// ```
/// use dynamo_http::AdminKey;
///
/// let key = AdminKey::default();
/// key.set("a-key-that-nobody-could-guess")?;
/// assert!(key.set("guessable").is_err(), "and the old one stands");
/// # Ok::<(), dynamo_http::WeakKey>(())
/// ```
#[derive(Clone, derive_more::Debug, Default)]
#[debug("AdminKey({})", if _0.load().is_some() { "set" } else { "none" })]
pub struct AdminKey(Arc<ArcSwapOption<KeyHash>>);

impl AdminKey {
    /// Makes this the key, for every request from now on.
    ///
    /// # Errors
    ///
    /// When the text is no key, as [`KeyHash::of`] says; nothing changes then.
    pub fn set(&self, key: &str) -> Result<(), WeakKey> {
        self.0.store(Some(Arc::new(KeyHash::of(key)?)));
        Ok(())
    }

    /// Whether a request shows the key: as a bearer token, or as the password of any user, which
    /// browsers can send.
    fn is_shown_by(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get_all(header::AUTHORIZATION).iter().filter_map(shown);
        let hashes: Vec<_> = shown.filter_map(|key| KeyHash::of_bytes(&key)).collect();
        let key = self.0.load();
        key.as_deref().is_some_and(|key| hashes.iter().any(|hash| hash == key))
    }
}

/// The key in a value of `Authorization`.
fn shown(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Who may read the pages for operators, by [`Frontend::admin_router`](crate::Frontend::admin_router).
///
/// | path | without a key | with a key |
/// |---|---|---|
/// | `/live`, `/ready` | everyone | everyone |
/// | `/metrics` | everyone | who shows the key; everyone with [`with_open_metrics`](Self::with_open_metrics) |
/// | `/health` | everyone | who shows the key |
/// | `/status` and below | everyone, if the listener's address is a loopback address; else nobody | who shows the key |
///
/// A web page that has its own name resolve to the address of the listener could read these pages in an
/// operator's browser. So the `Host` of a request must be an address, `localhost`, or a
/// [listed name](Self::with_hosts), unless the path is open to everyone at all times.
#[derive(Clone, Debug)]
#[must_use]
pub struct AdminAccess {
    key: Option<AdminKey>,
    is_local: bool,
    open_metrics: bool,
    hosts: Arc<[String]>,
}

impl AdminAccess {
    /// Access without a key, to a listener at this address.
    pub fn new(listener: IpAddr) -> Self {
        Self {
            key: None,
            is_local: listener.to_canonical().is_loopback(),
            open_metrics: false,
            hosts: Arc::default(),
        }
    }

    /// The same access for those who show a key.
    pub fn with_key(self, key: AdminKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The same access, with `/metrics` for everyone at all times.
    pub fn with_open_metrics(self, open_metrics: bool) -> Self {
        Self { open_metrics, ..self }
    }

    /// The same access by further names of hosts, without a port. Upper and lower case are the same.
    pub fn with_hosts(self, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { hosts: hosts.into_iter().collect(), ..self }
    }

    /// # Errors
    ///
    /// 403 for a host that is not listed, and for the status where it is closed; 401 without the key.
    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let path = request.uri().path();
        let is_open = match path {
            "/live" | "/ready" => true,
            "/metrics" => self.open_metrics,
            _ => false,
        };
        if is_open {
            return Ok(());
        }
        self.check_host(request)?;
        match &self.key {
            Some(key) if key.is_shown_by(request.headers()) => Ok(()),
            Some(_) => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "This page needs the key of the admin port: as a bearer token, or as the password of \
                 any user.",
            )
            .with_code("invalid_admin_key")),
            None if self.is_local || !is_status(path) => Ok(()),
            None => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "The status is closed: the admin port listens beyond this machine and has no key.",
            )
            .with_code("status_closed")),
        }
    }

    fn check_host(&self, request: &Request) -> Result<(), ApiError> {
        let header = request.headers().get(header::HOST);
        let authority = match (request.uri().authority(), header) {
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(value)) => match Authority::try_from(value.as_bytes()) {
                Ok(authority) => Some(authority),
                Err(_) => return Err(unlisted()),
            },
            // Every browser names a host.
            (None, None) => None,
        };
        let Some(authority) = authority else { return Ok(()) };
        let host = authority.host().trim_end_matches('.');
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_listed = bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host));
        if is_listed { Ok(()) } else { Err(unlisted()) }
    }
}

/// The name is not repeated, since it may hold anything.
fn unlisted() -> ApiError {
    let message = "The name in the header Host is not one of the admin port's: use an address, \
                   localhost, or a name that is listed with --admin-allowed-host.";
    ApiError::new(StatusCode::FORBIDDEN, message).with_code("host_not_allowed")
}

fn is_status(path: &str) -> bool {
    path.strip_prefix("/status").is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
}

/// Answers those who may not read a page, and keeps every answer out of caches, frames and other
/// pages.
pub(super) async fn guard(
    State(access): State<AdminAccess>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match access.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            let is_unauthorized = refused.status() == StatusCode::UNAUTHORIZED;
            let mut response = refused.into_response();
            if is_unauthorized {
                let basic = HeaderValue::from_static("Basic realm=\"dynamo-frontend\"");
                response.headers_mut().append(header::WWW_AUTHENTICATE, basic);
            }
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests;
