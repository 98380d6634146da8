//! The front door: every route of it, in one router.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use dynamo_namespace::NamespaceScope;
use http::StatusCode;

use crate::error::ApiError;
use crate::feed::DiscoveryStatus;
use crate::proxy::{MAX_IDLE, Proxy};
use crate::route::Route;
use crate::switchboard::Switchboard;
use crate::system;

/// Limits and time-outs of a frontend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FrontendConfig {
    /// The largest request body, in bytes. Default 192 MiB.
    pub body_limit: usize,
    /// All request bodies in memory, in bytes; above, 503. Default 1 GiB.
    pub bodies_limit: usize,
    /// How long a client may send nothing in the middle of a body. Default 30 s.
    pub body_stall_timeout: Duration,
    /// How long connecting to a worker may take. Default 2 s.
    pub connect_timeout: Duration,
    /// How long a worker may take to begin its answer: engines queue, so for long. Default 600 s.
    pub first_byte_timeout: Duration,
    /// How long a worker may send nothing in the middle of an answer. Default 300 s.
    pub idle_stream_timeout: Duration,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self {
            body_limit: 192 << 20,
            bodies_limit: 1 << 30,
            body_stall_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(600),
            idle_stream_timeout: Duration::from_secs(300),
        }
    }
}

/// An OpenAI-compatible front door for one scope. A clone is the same front door.
///
/// ```
/// use dynamo_http::{Feed, Frontend, FrontendConfig, Switchboard};
/// use dynamo_namespace::NamespaceScope;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let scope = NamespaceScope::from_target(Some("team-a"))?;
/// let (switchboard, writer) = Switchboard::new([scope.clone()]);
/// let feed = Feed::new(writer, []); // Its sources, such as a `ModelWatcher`'s stream.
/// let frontend = Frontend::new(switchboard, scope, feed.status(), &FrontendConfig::default());
/// tokio::spawn(feed.run());
/// let router = frontend.router();
/// # let _ = router;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Frontend {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) proxy: Proxy,
    pub(crate) discovery: DiscoveryStatus,
    pub(crate) draining: AtomicBool,
}

impl Frontend {
    /// A front door for one of the switchboard's scopes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime: connections to workers that are idle for too long are closed by
    /// a task, which ends with the frontend.
    #[must_use]
    pub fn new(
        switchboard: Switchboard,
        scope: NamespaceScope,
        discovery: DiscoveryStatus,
        config: &FrontendConfig,
    ) -> Self {
        let proxy = Proxy::new(switchboard, scope, config);
        let inner = Arc::new(Inner { proxy, discovery, draining: AtomicBool::new(false) });
        let upkeep = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(MAX_IDLE / 4);
            loop {
                tick.tick().await;
                match upkeep.upgrade() {
                    Some(inner) => inner.proxy.sweep(),
                    None => return,
                }
            }
        });
        Self { inner }
    }

    /// The router: every proxied route, `/v1/models`, `/health`, `/live`, `/ready` and `/metrics`.
    ///
    /// Closed routes are part of it: they open and close under the same router.
    pub fn router(&self) -> Router {
        let mut router = Router::new()
            .route("/v1/models", get(system::models))
            .route("/v1/models/{*id}", get(system::model))
            .route("/health", get(system::health))
            .route("/live", get(system::live))
            .route("/ready", get(system::ready))
            .route("/metrics", get(system::metrics));
        for route in Route::ALL {
            let inner = self.inner.clone();
            let serve = move |request: Request| {
                let inner = inner.clone();
                async move { inner.proxy.serve(route, request).await }
            };
            router = router.route(route.path(), post(serve));
        }
        router
            .method_not_allowed_fallback(method_not_allowed)
            .fallback(not_found)
            .with_state(self.inner.clone())
    }

    /// Begins to drain: `/ready` says 503 from now on, everything else goes on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontend").field("scope", &self.inner.proxy.scope).finish_non_exhaustive()
    }
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "There is no such route.").with_code("not_found")
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed for this route.")
        .with_code("method_not_allowed")
}
