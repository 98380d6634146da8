//! Every setting of every program: the one place that names flags, variables and defaults.

use dynamo_namespace::env;

use super::{Group, Setting};

/// A program, as its help and the reference show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// How it is called.
    pub(crate) usage: &'static [&'static str],
    pub(crate) groups: &'static [Group],
}

/// The programs.
pub(crate) const PROGRAMS: [Program; 4] = [FRONTEND, HASH_KEY, WORKER, WORKER_CONFIG];

/// `dynamo-frontend`.
pub(crate) const FRONTEND: Program = Program {
    name: "dynamo-frontend",
    about: "An OpenAI-compatible front door to the models of one namespace",
    usage: &["dynamo-frontend [OPTIONS]", "dynamo-frontend hash-key [OPTIONS]"],
    groups: &[
        Group {
            title: "Whose models",
            settings: &[TARGET_NAMESPACE, NAMESPACE_PREFIX, NAMESPACE_PREFIX_LITERAL, WATCH_SCOPE],
        },
        Group {
            title: "Listening",
            settings: &[
                HTTP_HOST,
                HTTP_PORT,
                TLS_CERT_PATH,
                TLS_KEY_PATH,
                FRONTEND_DRAIN_GRACE,
                DRAIN_TIMEOUT,
                ADMIN_HOST,
                ADMIN_PORT,
                THREADS,
            ],
        },
        Group { title: "Keys", settings: &[API_KEYS, WORKER_API_KEY_FILE] },
        Group {
            title: "Workers",
            settings: &[WORKER_URL, WORKER_NETWORK, WORKER_CA, HOLD, STATE_FILE],
        },
        Group {
            title: "Balancing",
            settings: &[
                ROUTER_MODE,
                AFFINITY_HEADER,
                WORKER_CONCURRENCY,
                QUEUE_DEPTH,
                QUEUE_TIMEOUT,
                RETRY_BUDGET,
                PANIC_THRESHOLD,
                WORKER_PROBE_INTERVAL,
            ],
        },
        STORE,
        Group {
            title: "Limits",
            settings: &[
                HTTP_BODY_LIMIT_MB,
                HTTP_BODY_MEMORY_MB,
                HTTP_HEADER_LIMIT_KB,
                HTTP_HEADER_COUNT,
                HTTP_HEADER_TIMEOUT,
                HTTP_BODY_STALL_TIMEOUT,
                HTTP_WRITE_STALL_TIMEOUT,
                HTTP_KEEP_ALIVE,
                HTTP2_STREAMS,
                CONNECT_TIMEOUT,
                FIRST_BYTE_TIMEOUT,
                STREAM_IDLE_TIMEOUT,
            ],
        },
        LOGS,
    ],
};

/// `dynamo-frontend hash-key`.
pub(crate) const HASH_KEY: Program = Program {
    name: "dynamo-frontend hash-key",
    about: "Reads a key from stdin and prints what a file of API keys holds of it",
    usage: &["dynamo-frontend hash-key < FILE", "dynamo-frontend hash-key --generate"],
    groups: &[Group { title: "Output", settings: &[GENERATE] }],
};

/// `dynamo-worker`.
pub(crate) const WORKER: Program = Program {
    name: "dynamo-worker",
    about: "Registers an OpenAI-compatible server, so that the frontends of its namespace find it",
    usage: &[
        "dynamo-worker [OPTIONS] --url URL",
        "dynamo-worker [OPTIONS] --url URL -- COMMAND [ARGUMENT]...",
        "dynamo-worker [OPTIONS] --echo",
    ],
    groups: &[
        IDENTITY,
        Group {
            title: "Engine",
            settings: &[
                URL,
                ADVERTISE_URL,
                ENGINE_API_KEY_FILE,
                ENGINE_CA,
                START_TIMEOUT,
                SILENCE_TIMEOUT,
                DRAIN_GRACE,
                STOP_TIMEOUT,
            ],
        },
        Group { title: "Models", settings: &[MODEL, MODEL_TYPE, CONTEXT_LENGTH] },
        Group { title: "Echo engine", settings: &[ECHO, ECHO_HOST, ECHO_PORT, ECHO_DELAY_MS] },
        Group { title: "Lease", settings: &[LEASE_TTL] },
        STORE,
        LOGS,
    ],
};

/// `dynamo-worker-config`.
pub(crate) const WORKER_CONFIG: Program = Program {
    name: "dynamo-worker-config",
    about: "Prints the identity under which a worker registers: namespace, component and endpoint",
    usage: &["dynamo-worker-config [OPTIONS]"],
    groups: &[IDENTITY, Group { title: "Output", settings: &[FORMAT] }, LOGS],
};

const IDENTITY: Group = Group {
    title: "Identity",
    settings: &[WORKER_NAMESPACE, NAMESPACE_WORKER_SUFFIX, COMPONENT, IS_PREFILL_WORKER],
};

const STORE: Group = Group {
    title: "Store",
    settings: &[
        DISCOVERY_BACKEND,
        ETCD_ENDPOINTS,
        ETCD_USERNAME,
        ETCD_PASSWORD,
        ETCD_CA,
        ETCD_CLIENT_CERT,
        ETCD_CLIENT_KEY,
    ],
};

const LOGS: Group = Group { title: "Logs", settings: &[LOG, RUST_LOG, LOGGING_JSONL] };

// Whose models a frontend discovers.

pub(crate) const TARGET_NAMESPACE: Setting = Setting::flag(
    "namespace",
    "NAMESPACE",
    "Namespace whose models are discovered. The variable is the fallback; without either, and with \
     `global`, the models of all namespaces are discovered",
)
.or(env::NAMESPACE);
pub(crate) const NAMESPACE_PREFIX: Setting = Setting::flag(
    "namespace-prefix",
    "PREFIX",
    "Discover this namespace and its generations, `PREFIX-<8 lowercase hex digits>`, as rolling \
     updates make them. Wins over a namespace from the same source (flags, or variables); empty or \
     `global` discovers all",
)
.or(env::NAMESPACE_PREFIX);
pub(crate) const NAMESPACE_PREFIX_LITERAL: Setting = Setting::switch(
    "namespace-prefix-literal",
    "Take the prefix literally: `team` also discovers `teamwork`. The variable says the opposite: \
     0 is literal, 1 means generations",
)
.or(env::NAMESPACE_PREFIX_STRICT);
pub(crate) const WATCH_SCOPE: Setting = Setting::flag(
    "watch-scope",
    "SCOPE",
    "What the store is asked for: `value` reads every entry and keeps those of the scope; `key` \
     reads only the scope's own keys, and does not see flat ones (Dynamo up to 0.5.1)",
)
.default("value");

// Listening.

pub(crate) const HTTP_HOST: Setting = Setting::flag("http-host", "HOST", "Address to listen on")
    .or(env::HTTP_HOST)
    .default("0.0.0.0");
pub(crate) const HTTP_PORT: Setting = Setting::flag(
    "http-port",
    "PORT",
    "Port to listen on; 0 takes a free one, which the log tells",
)
.or(env::HTTP_PORT)
.default("8000");
pub(crate) const TLS_CERT_PATH: Setting = Setting::flag(
    "tls-cert-path",
    "FILE",
    "Certificate to show, with those between it and the authority, PEM; makes the ports TLS. Read \
     again when it changes, together with the key",
)
.or(env::TLS_CERT_PATH);
pub(crate) const TLS_KEY_PATH: Setting =
    Setting::flag("tls-key-path", "FILE", "Key of the certificate, PEM").or(env::TLS_KEY_PATH);
pub(crate) const FRONTEND_DRAIN_GRACE: Setting = Setting::flag(
    "drain-grace",
    "SECONDS",
    "How long connections are still taken after SIGTERM or SIGINT, while `/ready` says 503: as long as \
     load balancers need to notice. A second signal stops at once",
)
.default("5");
pub(crate) const DRAIN_TIMEOUT: Setting = Setting::flag(
    "drain-timeout",
    "SECONDS",
    "How long requests in flight may take to finish after that",
)
.default("30");

pub(crate) const ADMIN_HOST: Setting = Setting::flag(
    "admin-host",
    "HOST",
    "Address of the admin port; 0.0.0.0 where a scraper is to reach it from elsewhere",
)
.or(env::ADMIN_HOST)
.default("127.0.0.1");
pub(crate) const ADMIN_PORT: Setting = Setting::flag(
    "admin-port",
    "PORT",
    "Serve `/health` and `/metrics` on this port and no longer on the main one, with all that they \
     can tell; 0 takes a free one, which the log tells. By default there is none",
)
.or(env::ADMIN_PORT);

// Keys of a frontend.

pub(crate) const API_KEYS: Setting = Setting::flag(
    "api-keys",
    "FILE",
    "Ask every client for a key. FILE lists their hashes, what they show and their limits, as JSON; \
     it is read again on SIGHUP and when it changes. `/health` and `/metrics` are then on the admin \
     port only",
);
pub(crate) const WORKER_API_KEY_FILE: Setting = Setting::flag(
    "worker-api-key-file",
    "FILE",
    "File with the key that every worker gets, in requests and in probes, in place of what clients \
     send as `Authorization`; it is read again on SIGHUP and when it changes",
);
pub(crate) const GENERATE: Setting = Setting::switch(
    "generate",
    "Make a new key of 256 random bits; print it, and its hash in a line of its own",
);

// Workers of a frontend.

pub(crate) const WORKER_URL: Setting = Setting::flag(
    "worker-url",
    "[MODEL=]URL[;kinds=KINDS][;namespace=NAMESPACE]",
    "A worker that needs no registration; repeatable. Its models are read from its `/v1/models`, \
     every 10 seconds; `MODEL=` says that it serves this model, without asking. KINDS is a list such \
     as `chat,embedding`, by default `chat,completions`. It belongs to NAMESPACE, by default the \
     frontend's own. Without any setting of etcd, no store is \
     used",
);
pub(crate) const WORKER_NETWORK: Setting = Setting::flag(
    "worker-network",
    "NETWORK",
    "A network in which workers may be, such as 10.0.0.0/8; can be given several times. Judged by the \
     address that a worker's name resolves to; link-local addresses are always refused, and without \
     this flag all others are allowed",
);
pub(crate) const WORKER_CA: Setting = Setting::flag(
    "worker-ca",
    "FILE",
    "Authorities that `https` workers are trusted by, PEM, beside those of the system. Read again when \
     it changes",
);

pub(crate) const HOLD: Setting = Setting::flag(
    "hold",
    "SECONDS",
    "How long the instances of a worker that vanishes from the store without having withdrawn serve on \
     while it answers: stores lose live leases now and then; 0 turns it off",
)
.default("30");

pub(crate) const STATE_FILE: Setting = Setting::flag(
    "state-file",
    "FILE",
    "Keep what the store said in FILE, so that a frontend that starts while the store is away serves \
     what it knew, each worker once it has answered. One file for each frontend",
)
.or(env::STATE_FILE);

// How a frontend spreads requests.

pub(crate) const ROUTER_MODE: Setting = Setting::flag(
    "router-mode",
    "MODE",
    "How a worker is picked: `round-robin`, `random`, `least-loaded` (of two at random, the one with \
     fewer requests in flight), or `affinity` (the same one for the same session, user or beginning \
     of a prompt, while it has no more than 1.25 times its share)",
)
.or(env::ROUTER_MODE)
.default("round-robin");
pub(crate) const AFFINITY_HEADER: Setting =
    Setting::flag("affinity-header", "NAME", "Header that names a session, for `affinity`")
        .default("x-session-id");
pub(crate) const WORKER_CONCURRENCY: Setting = Setting::flag(
    "worker-concurrency",
    "REQUESTS",
    "How many requests one worker may have in flight; without it there is no limit, and engines \
     queue by themselves",
);
pub(crate) const QUEUE_DEPTH: Setting = Setting::flag(
    "queue-depth",
    "REQUESTS",
    "How many requests may wait for one model while all its workers have as many as they may; \
     above, 429",
)
.default("256");
pub(crate) const QUEUE_TIMEOUT: Setting =
    Setting::flag("queue-timeout", "SECONDS", "How long a request may wait so; then 503")
        .default("30");
pub(crate) const RETRY_BUDGET: Setting = Setting::flag(
    "retry-budget",
    "PERCENT",
    "What share of the requests of the last seconds may be sent to a worker a second time, beside \
     ten a second; one that could not be sent at all always goes elsewhere",
)
.default("20");
pub(crate) const PANIC_THRESHOLD: Setting = Setting::flag(
    "panic-threshold",
    "PERCENT",
    "Below this share of a model's workers in rotation, those whose answers fail are used as well",
)
.default("50");
pub(crate) const WORKER_PROBE_INTERVAL: Setting = Setting::flag(
    "worker-probe-interval",
    "SECONDS",
    "How long a worker that sends nothing is left alone between two probes of its `/health`; 0 turns \
     probes off",
)
.default("2");

// The store.

pub(crate) const DISCOVERY_BACKEND: Setting = Setting::flag(
    "discovery-backend",
    "BACKEND",
    "Where workers register: `etcd`, or `memory`, which lives in one process and is for a frontend \
     with --worker-url",
)
.or(env::DISCOVERY_BACKEND)
.default("etcd");
pub(crate) const ETCD_ENDPOINTS: Setting =
    Setting::flag("etcd-endpoints", "URLS", "Endpoints of etcd, separated by commas")
        .or(env::ETCD_ENDPOINTS)
        .default("http://localhost:2379");
pub(crate) const ETCD_USERNAME: Setting =
    Setting::flag("etcd-username", "NAME", "User name for etcd").or(env::ETCD_AUTH_USERNAME);
pub(crate) const ETCD_PASSWORD: Setting = Setting::variable(
    env::ETCD_AUTH_PASSWORD,
    "PASSWORD",
    "Password for etcd. There is no flag, since other users can read those",
);
pub(crate) const ETCD_CA: Setting = Setting::flag(
    "etcd-ca",
    "FILE",
    "Authority that signed etcd's certificate, PEM; else those of the system",
)
.or(env::ETCD_AUTH_CA);
pub(crate) const ETCD_CLIENT_CERT: Setting =
    Setting::flag("etcd-client-cert", "FILE", "Client certificate for etcd, PEM")
        .or(env::ETCD_AUTH_CLIENT_CERT);
pub(crate) const ETCD_CLIENT_KEY: Setting =
    Setting::flag("etcd-client-key", "FILE", "Key of the client certificate, PEM")
        .or(env::ETCD_AUTH_CLIENT_KEY);

// Limits of a frontend.

pub(crate) const HTTP_BODY_LIMIT_MB: Setting =
    Setting::flag("http-body-limit-mb", "MIB", "Largest request body, in MiB")
        .or(env::HTTP_BODY_LIMIT_MB)
        .default("192");
pub(crate) const HTTP_BODY_MEMORY_MB: Setting = Setting::flag(
    "http-body-memory-mb",
    "MIB",
    "Request bodies in memory at one time, all together, in MiB; over it, requests get 503",
)
.default("1024");
pub(crate) const HTTP_HEADER_LIMIT_KB: Setting =
    Setting::flag("http-header-limit-kb", "KIB", "Largest request head, in KiB").default("64");
pub(crate) const HTTP_HEADER_COUNT: Setting =
    Setting::flag("http-header-count", "COUNT", "Most header fields of a request").default("100");
pub(crate) const HTTP_HEADER_TIMEOUT: Setting =
    Setting::flag("http-header-timeout", "SECONDS", "How long a request's head may take to arrive")
        .default("10");
pub(crate) const HTTP_BODY_STALL_TIMEOUT: Setting = Setting::flag(
    "http-body-stall-timeout",
    "SECONDS",
    "How long a request's body may stand still while it arrives",
)
.default("30");
pub(crate) const HTTP_WRITE_STALL_TIMEOUT: Setting = Setting::flag(
    "http-write-stall-timeout",
    "SECONDS",
    "How long a client may take nothing of its answer",
)
.default("300");
pub(crate) const THREADS: Setting = Setting::flag(
    "threads",
    "COUNT",
    "How many threads serve requests, each the connections that it was given; as many as there are \
     CPUs for the process, unless it is set",
)
.or(env::RUNTIME_NUM_WORKER_THREADS);
pub(crate) const HTTP_KEEP_ALIVE: Setting =
    Setting::flag("http-keep-alive", "SECONDS", "How long an idle connection stays open")
        .default("75");
pub(crate) const HTTP2_STREAMS: Setting = Setting::flag(
    "http2-streams",
    "COUNT",
    "Most requests under way at one time on one connection of HTTP/2",
)
.default("200");
pub(crate) const CONNECT_TIMEOUT: Setting =
    Setting::flag("connect-timeout", "SECONDS", "How long connecting to a worker may take")
        .default("2");
pub(crate) const FIRST_BYTE_TIMEOUT: Setting = Setting::flag(
    "first-byte-timeout",
    "SECONDS",
    "How long a worker may take to begin its answer; a queued request gets none for minutes",
)
.default("600");
pub(crate) const STREAM_IDLE_TIMEOUT: Setting =
    Setting::flag("stream-idle-timeout", "SECONDS", "How long a worker's answer may stand still")
        .default("300");

// A worker's identity.

pub(crate) const WORKER_NAMESPACE: Setting = Setting::flag(
    "namespace",
    "NAMESPACE",
    "Namespace that the worker belongs to. The variable is the fallback",
)
.or(env::NAMESPACE)
.default("global");
pub(crate) const NAMESPACE_WORKER_SUFFIX: Setting = Setting::variable(
    env::NAMESPACE_WORKER_SUFFIX,
    "SUFFIX",
    "Appended to the namespace, `<namespace>-<suffix>`: the generation of a rolling update",
);
pub(crate) const COMPONENT: Setting = Setting::flag(
    "component",
    "COMPONENT",
    "Component that the worker belongs to; else `prefill` with --is-prefill-worker, else `backend`",
);
pub(crate) const IS_PREFILL_WORKER: Setting = Setting::switch(
    "is-prefill-worker",
    "The worker only prefills for others: its component is `prefill`, which opens no route",
);

// A worker's engine.

pub(crate) const URL: Setting = Setting::flag(
    "url",
    "URL",
    "Base URL of the engine, an OpenAI-compatible server; with COMMAND, where that will listen",
);
pub(crate) const ADVERTISE_URL: Setting = Setting::flag(
    "advertise-url",
    "URL",
    "Base URL under which frontends reach the engine; else that of --url",
);
pub(crate) const ENGINE_API_KEY_FILE: Setting = Setting::flag(
    "engine-api-key-file",
    "FILE",
    "File with the key that the engine wants from those who ask for its health and models",
);
pub(crate) const ENGINE_CA: Setting = Setting::flag(
    "engine-ca",
    "FILE",
    "Authorities that an `https` engine is trusted by when it is asked for its health and models, PEM, \
     beside those of the system. Read again when it changes",
);
pub(crate) const START_TIMEOUT: Setting = Setting::flag(
    "start-timeout",
    "SECONDS",
    "Give up when the engine is not healthy, with a model, by then; else it may take as long as it \
     takes",
);
pub(crate) const SILENCE_TIMEOUT: Setting = Setting::flag(
    "silence-timeout",
    "SECONDS",
    "Withdraw an engine that accepts connections and answers no probe for so long",
)
.default("60");
pub(crate) const DRAIN_GRACE: Setting = Setting::flag(
    "drain-grace",
    "SECONDS",
    "How long the engine goes on after its models are withdrawn, before it is asked to end",
)
.default("5");
pub(crate) const STOP_TIMEOUT: Setting = Setting::flag(
    "stop-timeout",
    "SECONDS",
    "How long the engine may take to end after SIGTERM, before SIGKILL; in the last 5 s (or the second half) all that it has started gets SIGTERM",
)
.default("60");

// A worker's models.

pub(crate) const MODEL: Setting = Setting::flag(
    "model",
    "NAME",
    "Name of a model; repeatable. For engines that list none, or the wrong ones",
);
pub(crate) const MODEL_TYPE: Setting = Setting::flag(
    "model-type",
    "KINDS",
    "What the models can do, such as `Chat | Completions` or `embedding`. By default \
     `Chat | Completions`, for --echo also `Embedding`: an engine's list of models does not tell",
);
pub(crate) const CONTEXT_LENGTH: Setting = Setting::flag(
    "context-length",
    "TOKENS",
    "Context length of the models; else as the engine lists it",
);

// The echo engine.

pub(crate) const ECHO: Setting = Setting::switch(
    "echo",
    "Serve a built-in engine that repeats what it is told, for trials and load tests",
);
pub(crate) const ECHO_HOST: Setting =
    Setting::flag("echo-host", "HOST", "Address that the echo engine listens on")
        .default("127.0.0.1");
pub(crate) const ECHO_PORT: Setting =
    Setting::flag("echo-port", "PORT", "Port that the echo engine listens on; 0 takes a free one")
        .default("0");
pub(crate) const ECHO_DELAY_MS: Setting = Setting::flag(
    "echo-delay-ms",
    "MILLISECONDS",
    "How long the echo engine waits before each token",
)
.default("5");

// A worker's lease.

pub(crate) const LEASE_TTL: Setting = Setting::flag(
    "lease-ttl",
    "SECONDS",
    "How long the models outlive a worker that died; at least 2, and less than 10 risks losing live \
     ones",
)
.or(env::ETCD_LEASE_TTL)
.default("10");

// Output.

/// What the names in `--format env` begin with. They are not those that are read, since a suffix
/// that is part of the result would else be appended once more.
pub(crate) const ENV_FORMAT_PREFIX: &str = "DYN_WORKER_";
pub(crate) const FORMAT: Setting = Setting::flag(
    "format",
    "FORMAT",
    "`json`, one object with namespace, component, endpoint and endpoint_id; or `env`, the same as \
     lines DYN_WORKER_NAMESPACE=… for a shell's `eval`",
)
.default("json");

// Logs.

pub(crate) const LOG: Setting = Setting::variable(
    env::LOG,
    "FILTER",
    "Which logs are written to stderr, such as `debug` or `info,dynamo_http=debug`",
)
.default("info");
pub(crate) const RUST_LOG: Setting =
    Setting::variable(env::RUST_LOG, "FILTER", "The same, where the one above is not set");
pub(crate) const LOGGING_JSONL: Setting =
    Setting::variable(env::LOGGING_JSONL, "YES|NO", "Logs as one JSON object a line").default("0");
