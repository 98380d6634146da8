//! The front door, and its services for clients and operators.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use dynamo_namespace::NamespaceScope;
use http::StatusCode;
use tokio::time::interval;

use super::config::FrontendConfig;
use super::guard::{AdminAccess, guard};
use super::pages;
use super::service::{FrontendService, method_not_allowed};
use super::state::{Reader, State};
use super::status;
use crate::balance::{Balancer, QueueLimits, RetryBudget};
use crate::error::ApiError;
use crate::feed::DiscoveryStatus;
use crate::fleet::{Connector, Fleet, Tenants};
use crate::live::Live;
use crate::meter::Metrics;
use crate::placement::{Limits, Placement};
use crate::proxy::{BodyLimits, Forwarder, Memory, Proxy, Resends, Via};
use crate::view::{LiveView, Switchboard};

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
#[derive(Clone, derive_more::Debug)]
#[debug("Frontend({})", state.all.scope())]
pub struct Frontend {
    state: Arc<State>,
}

impl Frontend {
    /// A front door for one of the switchboard's scopes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime: tasks probe workers and close idle connections to them. They end
    /// with the frontend.
    pub fn new(
        switchboard: &Switchboard,
        scope: &NamespaceScope,
        discovery: DiscoveryStatus,
        config: &FrontendConfig,
    ) -> Self {
        let all = switchboard.live_view(scope);
        let proxy = proxy(&all, config);
        let state = Arc::new(State::new(proxy, all, discovery, config));
        let fleet = state.proxy.forwarder.fleet.clone();
        tokio::spawn(fleet.clone().follow_names_while(Arc::downgrade(&state)));
        tokio::spawn(fleet.attend_while(Arc::downgrade(&state)));
        tokio::spawn(age(Arc::downgrade(&state)));
        #[cfg(feature = "tls")]
        config.worker_tls.reload_on_change();
        Self { state }
    }

    /// The servers that this front door uses: for a feed that [holds](crate::Feed::with_hold)
    /// instances.
    pub fn fleet(&self) -> &Fleet {
        &self.state.proxy.forwarder.fleet
    }

    /// The service for a single port: the routes of [`client_service`](Self::client_service),
    /// `/health` and `/metrics`.
    ///
    /// These two pages show no value that changes with other namespaces. Where keys are required
    /// the service leaves them out, since they show the models of all keys;
    /// [`admin_router`](Self::admin_router) has them.
    pub fn service(&self) -> FrontendService {
        let reports = match self.state.keys {
            Some(_) => Router::new(),
            None => reports(Reader::Client),
        };
        self.door(client_routes().merge(reports))
    }

    /// The service for clients: every proxied route, `/v1/models`, `/live` and `/ready`.
    ///
    /// Closed routes are part of the service: they open and close under it. Where keys are
    /// required, each path but `/live` and `/ready` answers 401 to a request without a valid key,
    /// before any other answer.
    pub fn client_service(&self) -> FrontendService {
        self.door(client_routes())
    }

    /// [`service`](Self::service) as a router, which can be nested in or merged into another
    /// router.
    ///
    /// The router has a fallback and no routes. So [`Router::layer`] adds a layer around it, and
    /// [`Router::route_layer`] adds none.
    pub fn router(&self) -> Router {
        Router::new().fallback_service(self.service())
    }

    /// [`client_service`](Self::client_service) as a router, as [`router`](Self::router) is.
    pub fn client_router(&self) -> Router {
        Router::new().fallback_service(self.client_service())
    }

    /// The router for operators, for a port that clients do not reach: `/health` and `/metrics`
    /// with all values, `/status`, `/live` and `/ready`. `access` says who may read what.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime: a task notes what was counted, so that `/status` has rates. It
    /// ends with the frontend.
    pub fn admin_router(&self, access: AdminAccess) -> Router {
        tokio::spawn(note(Arc::downgrade(&self.state)));
        let pages = probes().merge(reports(Reader::Operator)).merge(status::routes());
        self.complete(pages).layer(from_fn_with_state(access, guard))
    }

    fn door(&self, router: Router<Arc<State>>) -> FrontendService {
        let router = self.complete(router);
        FrontendService::new(self.state.clone(), router)
    }

    fn complete(&self, router: Router<Arc<State>>) -> Router {
        router
            .method_not_allowed_fallback(async || method_not_allowed())
            .fallback(not_found)
            .with_state(self.state.clone())
    }

    /// Takes up the limits of a configuration while requests run: how many requests one worker may have
    /// in flight, the depth of the queue and the time in it, the memory for bodies, one body and all
    /// together, and the time-outs of bodies, of first bytes, of silent streams and of models that may
    /// come. Everything else in the configuration is left alone.
    ///
    /// No request is cut: one that has begun goes on, also where there are more by now than there may
    /// be, and one that waits keeps its time. Those that wait and fit by now begin at once.
    pub fn take_up_limits(&self, config: &FrontendConfig) {
        let Proxy { forwarder, limits, idle_stream, wait_for_model, .. } = &self.state.proxy;
        forwarder.queue.depth.set(config.queue_depth);
        forwarder.queue.timeout.set(config.queue_timeout);
        forwarder.first_byte.set(config.first_byte_timeout);
        limits.each.set(config.body_limit);
        limits.stall.set(config.body_stall_timeout);
        limits.memory.set_limit(config.bodies_limit);
        idle_stream.set(config.idle_stream_timeout);
        wait_for_model.set(config.wait_for_model);
        forwarder.balancer.limit.set(config.worker_concurrency);
        forwarder.fleet.all_servers().for_each(|server| server.load.go_on());
    }

    /// Begins to drain: `/ready` answers 503 from now on, and all other routes answer as before.
    pub fn drain(&self) {
        self.state.drain();
    }
}

fn proxy(all: &LiveView, config: &FrontendConfig) -> Proxy {
    let metrics = Arc::new(Metrics::new());
    let connector = Connector::new(config.connect_timeout, config.resolver.clone());
    #[cfg(feature = "tls")]
    let connector = connector.with_tls(config.worker_tls.clone());
    let tenants = Tenants::new(
        (&config.worker_networks, &config.namespace_networks),
        (&config.worker_key, &config.namespace_keys),
    );
    let anyone = match config.api_keys {
        Some(_) => LiveView::of_nothing(NamespaceScope::AnyOf(BTreeSet::new())),
        None => all.clone(),
    };
    Proxy {
        anyone: anyone.into(),
        forwarder: Forwarder {
            fleet: Fleet::new(
                connector,
                tenants,
                config.probe_interval,
                metrics.clone(),
                placement(config),
            ),
            balancer: Balancer {
                mode: config.router_mode,
                limit: Arc::new(Live::new(config.worker_concurrency)),
                panic_threshold: config.panic_threshold,
            },
            queue: QueueLimits {
                depth: Live::new(config.queue_depth),
                timeout: Live::new(config.queue_timeout),
            },
            resends: Resends::new(RetryBudget::new(config.retry_budget), &metrics),
            first_byte: Live::new(config.first_byte_timeout),
            metrics,
        },
        limits: BodyLimits {
            each: Live::new(config.body_limit),
            stall: Live::new(config.body_stall_timeout),
            memory: Memory::new(config.bodies_limit),
        },
        via: Via::new(),
        affinity_header: config.affinity_header.clone(),
        idle_stream: Live::new(config.idle_stream_timeout),
        sse_keepalive: config.sse_keepalive,
        usage: config.usage,
        isolation: config.isolation.as_ref().map(|one| one.within(all.scope())),
        priority: config.priority,
        aliases: config.aliases.clone(),
        access_log: config.access_log.clone(),
        traces: config.traces.clone(),
        wait_for_model: Live::new(config.wait_for_model),
    }
}

fn placement(config: &FrontendConfig) -> Placement {
    let limits = Limits::new().with_blocks(config.placement_blocks);
    Placement::new(limits.with_frontends(config.frontends))
}

/// Ages the budget of resent requests once a second, and drops series that nobody uses once a minute,
/// for as long as the front door lives.
async fn age(state: Weak<State>) {
    let mut seconds = interval(Duration::from_secs(1));
    for second in 0_u64.. {
        let now = seconds.tick().await;
        let Some(state) = state.upgrade() else { return };
        state.proxy.forwarder.resends.budget.age();
        if second % 60 == 0 {
            state.proxy.forwarder.metrics.sweep(now);
        }
    }
}

/// Notes what was counted, as often as rates need it, for as long as the front door lives.
async fn note(state: Weak<State>) {
    let mut ticks = interval(status::EVERY);
    loop {
        ticks.tick().await;
        let Some(state) = state.upgrade() else { return };
        status::note(state).await;
    }
}

fn probes() -> Router<Arc<State>> {
    Router::new().route("/live", get(pages::live)).route("/ready", get(pages::ready))
}

fn client_routes() -> Router<Arc<State>> {
    probes().route("/v1/models", get(pages::models)).route("/v1/models/{*id}", get(pages::model))
}

fn reports(reader: Reader) -> Router<Arc<State>> {
    Router::new()
        .route("/health", get(move |state| pages::health(state, reader)))
        .route("/metrics", get(move |state| pages::metrics(state, reader)))
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "There is no such route.").with_code("not_found")
}
