//! The front door: every route of it, in one router.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use dynamo_namespace::NamespaceScope;
use http::{HeaderName, StatusCode};

use crate::access::ApiKeys;
use crate::error::ApiError;
use crate::feed::DiscoveryStatus;
use crate::network::Network;
use crate::proxy::metrics::Reader;
use crate::proxy::{Proxy, RouterMode};
use crate::service::{FrontendService, method_not_allowed};
use crate::switchboard::Switchboard;
use crate::system;
#[cfg(feature = "tls")]
use crate::tls::WorkerTls;
use crate::worker_key::WorkerKey;

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
    /// What workers get in place of the client's `Authorization`. Default none.
    pub worker_key: WorkerKey,
    /// Where workers may be, judged by the address that a name resolves to. Default none, which is
    /// anywhere; what is link-local is always refused.
    pub worker_networks: Vec<Network>,
    /// How a worker is chosen for a request. Default round robin.
    pub router_mode: RouterMode,
    /// The header that names a session, for [`RouterMode::Affinity`]. Default `x-session-id`.
    pub affinity_header: HeaderName,
    /// How many requests one worker may have in flight. Default none: engines queue by themselves.
    pub worker_concurrency: Option<NonZeroUsize>,
    /// How many requests may wait for one model while all its workers have as many as they may;
    /// above, 429. Default 256.
    pub queue_depth: usize,
    /// How long a request may wait so; then 503. Default 30 s.
    pub queue_timeout: Duration,
    /// What share of the requests of the last seconds may be sent to a worker a second time, in
    /// percent, beside ten a second. One that could not be sent at all is none of them. Default 20.
    pub retry_budget: u8,
    /// Below this share of a model's workers in rotation, in percent, those whose answers fail are
    /// used as well. Default 50.
    pub panic_threshold: u8,
    /// How long a worker that sends nothing is left alone between two probes of its `/health`.
    /// None: workers are not probed, and one is out of rotation only when its answers fail.
    /// Default 2 s.
    pub probe_interval: Option<Duration>,
    /// Which authorities are trusted for `https` workers. Default those of the machine.
    #[cfg(feature = "tls")]
    pub worker_tls: WorkerTls,
    /// The keys that clients need. Default none: whoever reaches the port may use every model in
    /// the frontend's scope.
    pub api_keys: Option<ApiKeys>,
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
            worker_key: WorkerKey::default(),
            worker_networks: Vec::new(),
            router_mode: RouterMode::default(),
            affinity_header: HeaderName::from_static("x-session-id"),
            worker_concurrency: None,
            queue_depth: 256,
            queue_timeout: Duration::from_secs(30),
            retry_budget: 20,
            panic_threshold: 50,
            probe_interval: Some(Duration::from_secs(2)),
            #[cfg(feature = "tls")]
            worker_tls: WorkerTls::default(),
            api_keys: None,
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
/// let frontend = Frontend::new(&switchboard, &scope, feed.status(), &FrontendConfig::default());
/// tokio::spawn(feed.run());
/// let service = frontend.service();
/// # let _ = service;
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
    pub(crate) keys: Option<ApiKeys>,
}

impl Frontend {
    /// A front door for one of the switchboard's scopes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime: a task probes workers and closes idle connections to them. It
    /// ends with the frontend.
    #[must_use]
    pub fn new(
        switchboard: &Switchboard,
        scope: &NamespaceScope,
        discovery: DiscoveryStatus,
        config: &FrontendConfig,
    ) -> Self {
        #[cfg(feature = "tls")]
        config.worker_tls.reload_on_change();
        let proxy = Proxy::new(switchboard.live_view(scope), config);
        let keys = config.api_keys.clone();
        let inner = Arc::new(Inner { proxy, discovery, draining: AtomicBool::new(false), keys });
        tokio::spawn(inner.proxy.upkeep().run(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Everything behind one port: what [`client_service`](Self::client_service) has, `/health` and
    /// `/metrics`.
    ///
    /// These two tell nothing that moves with other namespaces. Where keys are required they are
    /// left out, since they tell of all keys' models: [`admin_router`](Self::admin_router) has them.
    pub fn service(&self) -> FrontendService {
        let reports = match self.inner.keys {
            Some(_) => Router::new(),
            None => reports(Reader::Client),
        };
        self.door(client_routes().merge(reports))
    }

    /// What clients need: every proxied route, `/v1/models`, `/live` and `/ready`.
    ///
    /// Closed routes are part of it: they open and close under the same service. Where keys are
    /// required, everything but `/live` and `/ready` asks for one before it tells anything.
    pub fn client_service(&self) -> FrontendService {
        self.door(client_routes())
    }

    /// [`service`](Self::service) as a router, to be nested or merged into another one.
    ///
    /// It is all fallback: a layer that is to be around it is added by [`Router::layer`], since
    /// [`Router::route_layer`] leaves a fallback out.
    pub fn router(&self) -> Router {
        Router::new().fallback_service(self.service())
    }

    /// [`client_service`](Self::client_service) as a router, as [`router`](Self::router) is.
    pub fn client_router(&self) -> Router {
        Router::new().fallback_service(self.client_service())
    }

    /// What operators need, for a port that clients do not reach: `/health` and `/metrics` with all
    /// that they can tell, `/live` and `/ready`. It asks for no key.
    pub fn admin_router(&self) -> Router {
        self.complete(probes().merge(reports(Reader::Operator)))
    }

    fn door(&self, router: Router<Arc<Inner>>) -> FrontendService {
        let router = self.complete(router);
        FrontendService::new(self.inner.clone(), self.inner.keys.clone(), router)
    }

    fn complete(&self, router: Router<Arc<Inner>>) -> Router {
        router
            .method_not_allowed_fallback(async || method_not_allowed())
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
        f.debug_struct("Frontend")
            .field("scope", self.inner.proxy.all.scope())
            .finish_non_exhaustive()
    }
}

fn probes() -> Router<Arc<Inner>> {
    Router::new().route("/live", get(system::live)).route("/ready", get(system::ready))
}

fn client_routes() -> Router<Arc<Inner>> {
    probes().route("/v1/models", get(system::models)).route("/v1/models/{*id}", get(system::model))
}

fn reports(reader: Reader) -> Router<Arc<Inner>> {
    Router::new()
        .route("/health", get(move |inner| system::health(inner, reader)))
        .route("/metrics", get(move |inner| system::metrics(inner, reader)))
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "There is no such route.").with_code("not_found")
}
