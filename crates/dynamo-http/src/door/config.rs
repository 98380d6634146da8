//! The settings of a front door.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use dynamo_namespace::Namespace;
use http::HeaderName;

use super::program_metrics::ProgramMetrics;
use crate::access::ApiKeys;
use crate::alias::Aliases;
use crate::balance::RouterMode;
use crate::config::config;
use crate::fleet::{Network, Networks, Resolve, SystemResolver, WorkerKey, key_of, networks_of};
use crate::meter::{AccessLog, Traces, UsageMode};
use crate::priority::PriorityMode;
use crate::proxy::Isolation;
use crate::serve::Connections;
#[cfg(feature = "tls")]
use crate::tls::WorkerTls;

config! {
    /// Limits and time-outs of a front door.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dynamo_http::FrontendConfig;
    ///
    /// let config = FrontendConfig::new().with_connect_timeout(Duration::from_secs(1));
    /// assert_eq!(config.connect_timeout().as_secs(), 1);
    /// assert_eq!(*config.queue_depth(), 256);
    /// ```
    pub struct FrontendConfig {
        /// The largest request body, in bytes. Default 192 MiB.
        body_limit, with_body_limit: usize = 192 << 20;
        /// The buffers of all request bodies in memory, in bytes; above it requests get 503. Default
        /// 1 GiB.
        bodies_limit, with_bodies_limit: usize = 1 << 30;
        /// The time in which a body that goes on must bring 1 KiB for each second; else 408.
        /// Default 30 s.
        body_stall_timeout, with_body_stall_timeout: Duration = Duration::from_secs(30);
        /// How long connecting to a worker may take. Default 2 s.
        connect_timeout, with_connect_timeout: Duration = Duration::from_secs(2);
        /// How long a worker may take to begin its answer. Default 600 s, since engines queue
        /// requests.
        first_byte_timeout, with_first_byte_timeout: Duration = Duration::from_secs(600);
        /// How long a worker may send nothing in the middle of an answer. Default 300 s.
        idle_stream_timeout, with_idle_stream_timeout: Duration = Duration::from_secs(300);
        /// After how long without a byte an event stream gets a comment, between two events, so that
        /// proxies and clients do not take it for dead. Default none.
        sse_keepalive, with_sse_keepalive: Option<Duration> = None;
        /// The key that workers get in place of the client's `Authorization`. Default none.
        worker_key, with_worker_key: WorkerKey = WorkerKey::default();
        /// The networks in which workers may be. The address to which a name resolves decides.
        /// Default none, which allows any address; link-local addresses and those of metadata
        /// services are always refused.
        worker_networks, with_worker_networks: Vec<Network> = Vec::new();
        /// The networks in which the workers of a namespace, and of its generations, may be, in place
        /// of `worker_networks`. Default none. Where some namespace has networks, and
        /// `worker_networks` is empty, the workers of a namespace without any are not connected to.
        namespace_networks, with_namespace_networks: BTreeMap<Namespace, Vec<Network>> = BTreeMap::new();
        /// The keys that the workers of a namespace, and of its generations, get in place of
        /// `worker_key`. Default none.
        namespace_keys, with_namespace_keys: BTreeMap<Namespace, WorkerKey> = BTreeMap::new();
        /// What finds the addresses of workers that are registered by name. Default that of the
        /// system.
        resolver, with_resolver: Arc<dyn Resolve> = Arc::new(SystemResolver);
        /// How a worker is chosen for a request. Default [`RouterMode::CacheAware`].
        router_mode, with_router_mode: RouterMode = RouterMode::default();
        /// How many frontends send requests to the same workers. Above 1,
        /// [`RouterMode::CacheAware`] presumes that a prompt that is unknown here was sent to the one
        /// worker that all frontends agree on. Default 1.
        frontends, with_frontends: NonZeroUsize = NonZeroUsize::MIN;
        /// How many blocks of prompts [`RouterMode::CacheAware`] remembers in all, each at each
        /// worker; a block is 1 KiB of a prompt and takes about 60 bytes. Default 1,000,000.
        placement_blocks, with_placement_blocks: usize = 1_000_000;
        /// The header that names a session, for [`RouterMode::Affinity`] and
        /// [`RouterMode::CacheAware`]. Default `x-session-id`.
        affinity_header, with_affinity_header: HeaderName = HeaderName::from_static("x-session-id");
        /// How many requests one worker may have in flight. Default no limit, since engines queue
        /// requests.
        worker_concurrency, with_worker_concurrency: Option<NonZeroUsize> = None;
        /// How many requests may wait for one model while all its workers are at their limit;
        /// further requests get 429. Default 256.
        queue_depth, with_queue_depth: usize = 256;
        /// How long a request may wait for a worker that is below its limit; then it gets 503.
        /// Default 30 s.
        queue_timeout, with_queue_timeout: Duration = Duration::from_secs(30);
        /// How long a request waits for a model that may come: for one that its caller's scope had
        /// within the last ten minutes, and for an alias with a target in that scope; then it gets
        /// 503. Default zero: no request waits.
        wait_for_model, with_wait_for_model: Duration = Duration::ZERO;
        /// The share of the requests of the last seconds that may be sent a second time, in
        /// percent, beside ten a second; with 0, none may. A request of which no byte was written
        /// does not count. Default 20.
        retry_budget, with_retry_budget: u8 = 20;
        /// When a smaller share of a model's workers is in rotation, in percent, workers whose
        /// answers fail get requests as well. Default 50.
        panic_threshold, with_panic_threshold: u8 = 50;
        /// The time between two probes of `/health` at a worker that sends nothing. None: workers
        /// are not probed, and leave the rotation only by what requests see of them. Control ports
        /// are asked in either case. Default 2 s.
        probe_interval, with_probe_interval: Option<Duration> = Some(Duration::from_secs(2));
        #[cfg(feature = "tls")]
        /// The authorities that are trusted for `https` workers. Default those of the machine.
        worker_tls, with_worker_tls: WorkerTls = WorkerTls::default();
        /// The counts of the listener that serves the front door, shown by `/metrics`. Default none.
        connections, with_connections: Option<Connections> = None;
        /// Whether answers are read for the tokens that they used. Default
        /// [`Observe`](UsageMode::Observe).
        usage, with_usage: UsageMode = UsageMode::default();
        /// What keeps callers apart in the prefix caches of engines. Default nothing: bodies stay as
        /// clients send them.
        isolation, with_isolation: Option<Isolation> = None;
        /// What decides the classes of requests, which order those that wait. Other than with
        /// [`None`](PriorityMode::None), `priority` in a body is replaced by the class, or removed
        /// where the worker does not accept it. Default none.
        priority, with_priority: PriorityMode = PriorityMode::None;
        /// What is told of each request that has ended. Default nothing, and then nothing is collected.
        access_log, with_access_log: Option<AccessLog> = None;
        /// Where the spans of requests go. Default nowhere, and then no span is made.
        traces, with_traces: Option<Traces> = None;
        /// What the admin port's `/metrics` shows beside the front door's own. Default nothing.
        program_metrics, with_program_metrics: Option<ProgramMetrics> = None;
        /// Names that clients ask for, and the models that answer them. Default none.
        aliases, with_aliases: Aliases = Aliases::default();
        /// The keys that clients need. Default none: every client may use every model in the
        /// frontend's scope.
        api_keys, with_api_keys: Option<ApiKeys> = None;
    }
}

impl FrontendConfig {
    /// Where the workers of a namespace may be.
    pub fn networks_of(&self, namespace: &Namespace) -> Networks {
        networks_of(&self.worker_networks, &self.namespace_networks, Some(namespace))
    }

    /// The key that the workers of a namespace get.
    pub fn worker_key_of(&self, namespace: &Namespace) -> WorkerKey {
        key_of(&self.worker_key, &self.namespace_keys, Some(namespace))
    }
}
