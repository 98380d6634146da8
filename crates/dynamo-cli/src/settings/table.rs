//! Every setting of every program, declared once: name, sources, type, default, meaning.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use dynamo_discovery::{Accepts, ControlUrl, GroupName, Kinds, WatchScope, WorkerUrl};
use dynamo_http::{ClientAuth, Network, PriorityMode, RouterMode, UsageMode};
use dynamo_namespace::{env, names};
use http::HeaderName;

use super::origin::WebOrigin;
use super::root::Root;
use super::scoped::Scoped;
use super::static_worker::StaticWorker;
use super::store::Endpoints;
use super::value::{
    Backend, EntryFormat, Format, IsolationMode, Kibibytes, LeaseTtl, Mebibytes, ModelName,
    OtlpProtocol, Percent, Sampler, Seconds, Share, Timeout, TracesExporter, UsageStore, YesNo,
};
use super::{Group, Setting, flag, settings, switch, variable};
use crate::failure::Failure;

/// A program, as its help and the reference show it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// How it is called.
    pub(crate) usage: &'static [&'static str],
    pub(crate) groups: &'static [&'static Group],
    /// What it must be told beside its settings, if anything.
    pub(crate) operand: Option<&'static Operand>,
    /// Whether it only has subcommands, whose settings its own are as well.
    pub(crate) has_verbs: bool,
    /// What the arguments after `--` are, if it takes any.
    pub(crate) command: Option<&'static str>,
    /// The parts of its configuration file that are more than a setting.
    pub(crate) sections: &'static [&'static str],
}

/// An argument without a flag, which is required.
#[derive(Debug)]
pub(crate) struct Operand {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
}

/// The section of the configuration file with the keys of clients.
pub(crate) const KEYS_SECTION: &str = "keys";
/// The section of the configuration file with the aliases of models.
pub(crate) const MODELS_SECTION: &str = "models";
/// The setting that names the configuration file.
pub(crate) const CONFIG: &Setting = Config::config;

/// The programs.
pub(crate) const PROGRAMS: [&Program; 12] = [
    &FRONTEND,
    &HASH_KEY,
    &WORKER,
    &WORKER_CONFIG,
    &MODELS,
    &MODELS_LIST,
    &MODELS_GET,
    &MODELS_WATCH,
    &MODELS_DRAIN,
    &MODELS_RM,
    &MODELS_DOCTOR,
    &MODELS_USAGE,
];

/// `dynamo-frontend`.
pub(crate) const FRONTEND: Program = Program {
    name: "dynamo-frontend",
    about: "An OpenAI-compatible front door to the models of one namespace",
    usage: &["dynamo-frontend [OPTIONS]", "dynamo-frontend hash-key [OPTIONS]"],
    groups: &[
        Scope::GROUP,
        Listening::GROUP,
        Keys::GROUP,
        Workers::GROUP,
        Balancing::GROUP,
        Isolating::GROUP,
        Store::GROUP,
        Usage::GROUP,
        Counted::GROUP,
        Limits::GROUP,
        Logs::GROUP,
        Access::GROUP,
        Tracing::GROUP,
        Config::GROUP,
    ],
    operand: None,
    has_verbs: false,
    command: None,
    sections: &[MODELS_SECTION, KEYS_SECTION],
};

/// `dynamo-frontend hash-key`.
pub(crate) const HASH_KEY: Program = Program {
    name: "dynamo-frontend hash-key",
    about: "Reads a key from stdin and prints what a file of API keys holds of it",
    usage: &["dynamo-frontend hash-key < FILE", "dynamo-frontend hash-key --generate"],
    groups: &[NewKey::GROUP],
    operand: None,
    has_verbs: false,
    command: None,
    sections: &[],
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
        Identity::GROUP,
        Engine::GROUP,
        Models::GROUP,
        Control::GROUP,
        Echo::GROUP,
        Lease::GROUP,
        Store::GROUP,
        LOGS_FROM_START,
        CONFIG_AT_START,
    ],
    operand: None,
    has_verbs: false,
    command: Some("The engine to run: it ends with the worker"),
    sections: &[],
};

/// `dynamo-worker-config`.
pub(crate) const WORKER_CONFIG: Program = Program {
    name: "dynamo-worker-config",
    about: "Prints the identity under which a worker registers: namespace, component and endpoint",
    usage: &["dynamo-worker-config [OPTIONS]"],
    groups: &[Identity::GROUP, Output::GROUP, LOGS_FROM_START],
    operand: None,
    has_verbs: false,
    command: None,
    sections: &[],
};

/// `dynamo-models`.
pub(crate) const MODELS: Program = Program {
    name: "dynamo-models",
    about: "Shows what is registered in etcd, says what is wrong with it, and takes it out",
    usage: &["dynamo-models [OPTIONS] list|get|watch|drain|rm|doctor|usage"],
    groups: &[
        Scope::GROUP,
        Counted::GROUP,
        Shown::GROUP,
        Asking::GROUP,
        Store::GROUP,
        QuietLogs::GROUP,
    ],
    has_verbs: true,
    ..VERB
};

/// A subcommand of `dynamo-models`, which has the settings of that.
const VERB: Program = Program {
    name: "",
    about: "",
    usage: &[],
    groups: &[],
    operand: None,
    has_verbs: false,
    command: None,
    sections: &[],
};

/// The operand of what changes an entry.
const KEY: Option<&Operand> =
    Some(&Operand { name: "KEY", meaning: "The entry's key, as `list` shows it" });

/// `dynamo-models list`.
pub(crate) const MODELS_LIST: Program = Program {
    name: "dynamo-models list",
    about: "Lists the entries, of Dynamo's releases as well",
    usage: &["dynamo-models list [OPTIONS]"],
    ..VERB
};

/// `dynamo-models get`.
pub(crate) const MODELS_GET: Program = Program {
    name: "dynamo-models get",
    about: "Shows all that an entry says, or the entries of a model",
    usage: &["dynamo-models get [OPTIONS] KEY|MODEL"],
    operand: Some(&Operand {
        name: "KEY|MODEL",
        meaning: "An entry's key, as `list` shows it, or a model's name",
    }),
    ..VERB
};

/// `dynamo-models watch`.
pub(crate) const MODELS_WATCH: Program = Program {
    name: "dynamo-models watch",
    about: "Prints the instances that a frontend of this scope discovers, and each change",
    usage: &["dynamo-models watch [OPTIONS]"],
    ..VERB
};

/// `dynamo-models drain`.
pub(crate) const MODELS_DRAIN: Program = Program {
    name: "dynamo-models drain",
    about: "Takes a worker out of service: by its control port, else by its entry",
    usage: &["dynamo-models drain [OPTIONS] KEY"],
    operand: KEY,
    ..VERB
};

/// `dynamo-models rm`.
pub(crate) const MODELS_RM: Program = Program {
    name: "dynamo-models rm",
    about: "Deletes an entry, for what is left behind; a worker that lives writes its entry again",
    usage: &["dynamo-models rm [OPTIONS] KEY"],
    operand: KEY,
    ..VERB
};

/// `dynamo-models doctor`.
pub(crate) const MODELS_DOCTOR: Program = Program {
    name: "dynamo-models doctor",
    about: "Says what is wrong with etcd, the user's roles, the entries and their servers; exits with 1 \
            if it finds a fault",
    usage: &["dynamo-models doctor [OPTIONS]"],
    ..VERB
};

/// `dynamo-models usage`.
pub(crate) const MODELS_USAGE: Program = Program {
    name: "dynamo-models usage",
    about: "Sums up what the API keys of a group have used of their tokens, by day and month",
    usage: &["dynamo-models usage [OPTIONS]"],
    ..VERB
};

impl Program {
    pub(crate) fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.groups.iter().flat_map(|group| group.settings).copied()
    }
}

/// The logs of a program whose configuration file is not followed.
const LOGS_FROM_START: &Group =
    &Group { title: Logs::GROUP.title, settings: &[LOG_FROM_START, Logs::logging_jsonl] };
const LOG_FROM_START: &Setting = &Setting {
    name: Logs::log.name,
    meaning: Logs::log.meaning,
    schema: Logs::log.schema,
    ..variable("DYN_LOG", "FILTER").or(RUST_LOG).default("info")
};

/// The configuration file of a program that reads it once.
const CONFIG_AT_START: &Group = &Group { title: Config::GROUP.title, settings: &[FILE_AT_START] };
const FILE_AT_START: &Setting = &Setting {
    name: CONFIG.name,
    meaning: "File with settings by their names, in YAML: `namespace: team-a`. A flag or a variable \
              wins over the file. Read at the start",
    schema: CONFIG.schema,
    ..flag("FILE").or("DYN_CONFIG")
};

/// The variable for the filter of logs that an engine may read as well.
pub(crate) const RUST_LOG: &str = "RUST_LOG";

/// What is said of flags that other programs have, and ours do not.
pub(crate) fn instead_of(flag: &str) -> Option<String> {
    (flag == "--endpoint").then(|| {
        format!(
            "there is no --endpoint: set the namespace with --namespace or {}, and the component \
             with --is-prefill-worker or --component; the endpoint is always {:?}",
            env::NAMESPACE,
            names::GENERATE_ENDPOINT
        )
    })
}

settings! {
    Scope "Whose models" {
        /// Namespace whose models are discovered. The variable is the fallback; without either, and
        /// with `global`, the models of all namespaces are discovered
        namespace: Option<String> = flag("NAMESPACE").or(env::NAMESPACE);
        /// Discover this namespace and its generations, `PREFIX-<8 lowercase hex digits>`, as rolling
        /// updates make them. Wins over a namespace from the same source (flags, or variables); empty
        /// or `global` discovers all
        namespace_prefix: Option<String> = flag("PREFIX").or(env::NAMESPACE_PREFIX);
        /// Discover the models of all namespaces, whatever the variables say
        all_namespaces: bool = switch();
        /// Take the prefix literally: `team` also discovers `teamwork`
        namespace_prefix_literal: bool = switch();
        /// 0 takes the prefix literally, as the flag --namespace-prefix-literal does; 1 means
        /// generations
        namespace_prefix_strict: YesNo =
            variable(env::NAMESPACE_PREFIX_STRICT, "YES|NO").default("1");
        /// What the store is asked for: `value` reads every entry and keeps those of the scope; `key`
        /// reads only the scope's own keys, and does not see flat ones (Dynamo up to 0.5.1)
        watch_scope: WatchScope = flag("SCOPE").default("value");
    }

    Listening "Listening" {
        /// Address to listen on
        http_host: String = flag("HOST").or("DYN_HTTP_HOST").default("0.0.0.0");
        /// Port to listen on; 0 takes a free one, which the log tells
        http_port: u16 = flag("PORT").or("DYN_HTTP_PORT").default("8000");
        /// Certificate to show, with those between it and the authority, PEM; makes the ports TLS
        tls_cert_path: Option<PathBuf> = flag("FILE").or("DYN_TLS_CERT_PATH").reloadable();
        /// Key of the certificate, PEM
        tls_key_path: Option<PathBuf> = flag("FILE").or("DYN_TLS_KEY_PATH").reloadable();
        /// Authorities that vouch for certificates of clients, PEM. Clients of the main port are then
        /// asked for a certificate; the admin port asks for none
        tls_client_ca_path: Option<PathBuf> =
            flag("FILE").or("DYN_TLS_CLIENT_CA_CERT_PATH").reloadable();
        /// `required` refuses each client without a certificate; `optional` lets such a client in. An
        /// invalid certificate is refused in both
        tls_client_auth: ClientAuth = flag("AUTH").default("required");
        /// An origin whose web pages may use the front door, such as https://chat.example, or `*` for
        /// all; repeatable. Their preflights are answered without a key. By default no page of
        /// another origin may
        cors_origin: Vec<WebOrigin> = flag("ORIGIN");
        /// How long connections are still taken after SIGTERM or SIGINT, while `/ready` says 503: as
        /// long as load balancers need to notice. A second signal stops at once
        drain_grace: Seconds = flag("SECONDS").default("5");
        /// How long requests in flight may take to finish after that
        drain_timeout: Seconds = flag("SECONDS").default("30");
        /// Address of the admin port; 0.0.0.0 where a scraper is to reach it from elsewhere
        admin_host: String = flag("HOST").or("DYN_ADMIN_HOST").default("127.0.0.1");
        /// Serve `/health` and `/metrics` on this port and no longer on the main one, with all that
        /// they can tell; 0 takes a free one, which the log tells. By default there is none
        admin_port: Option<u16> = flag("PORT").or("DYN_ADMIN_PORT");
        /// File with the key that readers of the admin port need, but for `/live` and `/ready`: as a
        /// bearer token, or as the password of any user. Without one, `/status` is served to this
        /// machine only
        admin_key_file: Option<PathBuf> = flag("FILE").reloadable();
        /// Serve `/metrics` of the admin port to everyone who reaches it, without the key
        admin_metrics_open: bool = switch();
        /// A name by which the admin port is asked for, such as that of a service; repeatable. Addresses
        /// and localhost need none. Other names are refused, since the page of a stranger could have
        /// its own name resolve to this machine
        admin_allowed_host: Vec<String> = flag("HOST");
        /// How many threads serve requests, each the connections that it was given; as many as there
        /// are CPUs for the process, unless it is set
        threads: Option<NonZeroUsize> = flag("COUNT").or("DYN_RUNTIME_NUM_WORKER_THREADS");
    }

    Keys "Keys" {
        /// Ask every client for a key. FILE lists their hashes, what they show and their limits, as
        /// JSON. `/health` and `/metrics` are then on the admin port only
        api_keys: Option<PathBuf> = flag("FILE").reloadable();
        /// File with the key that workers get, in requests and in probes, in place of what clients
        /// send as `Authorization`; repeatable. With NAMESPACE, the key is for the workers of that
        /// namespace and of its generations, and for no others; without, it is for those of all
        /// namespaces that have none of their own
        worker_api_key_file: Vec<Scoped<PathBuf>> = flag("[NAMESPACE=]FILE").reloadable();
    }

    NewKey "Output" {
        /// Make a new key of 256 random bits; print it, and its hash in a line of its own
        generate: bool = switch();
    }

    Workers "Workers" {
        /// A worker that needs no registration; repeatable. Its models are read from its `/v1/models`,
        /// every 10 seconds; `MODEL=` says that it serves this model, without asking. Workers that
        /// answer serve at once; `/ready` waits for the others for 10 seconds. KINDS is a list such as
        /// `chat,embedding`, by default `chat,completions`. It belongs to NAMESPACE, by default the
        /// frontend's own. FIELDS are as for `dynamo-worker --accepts`. Without any setting of etcd,
        /// no store is used
        worker_url: Vec<StaticWorker> =
            flag("[MODEL=]URL[;kinds=KINDS][;namespace=NAMESPACE][;accepts=FIELDS]").followed();
        /// A network in which workers may be, such as 192.0.2.0/24; can be given several times. With
        /// NAMESPACE, it is one of the workers of that namespace and of its generations, which may then
        /// be in no other; without, it is for all namespaces that have none of their own. Judged by
        /// the address that a worker's name resolves to, for requests, probes, control ports and the
        /// workers of --worker-url; link-local addresses and those of metadata services are always
        /// refused, and without this flag all others are allowed
        worker_network: Vec<Scoped<Network>> = flag("[NAMESPACE=]NETWORK");
        /// Which servers know the names of workers, in the form of resolv.conf, with its search domains
        /// and options. The file /etc/hosts is read as well
        resolv_conf: PathBuf = flag("FILE").default("/etc/resolv.conf").reloadable();
        /// Have the system resolve the names of workers (getaddrinfo, with all that nsswitch.conf
        /// names), which remembers nothing and takes a thread for each name
        system_resolver: bool = switch();
        /// Authorities that `https` workers are trusted by, PEM, beside those of the system
        worker_ca: Option<PathBuf> = flag("FILE").reloadable();
        /// How long the instances of a worker that vanishes from the store without having withdrawn
        /// are held while the worker's control port answers for them: stores lose live leases now
        /// and then; 0 turns it off
        hold: Seconds = flag("SECONDS").default("30");
        /// Also hold instances of workers without a control port, and serve them from the state file,
        /// if their server lists the model and no other worker names its URL. Another engine at a
        /// reused address may list the same model
        hold_unproven: bool = switch();
        /// Keep what the store said in FILE, so that a frontend that starts while the store is away
        /// serves what it knew, each worker once its control port has answered. One file for each
        /// frontend
        state_file: Option<PathBuf> = flag("FILE").or("DYN_STATE_FILE");
    }

    Isolating "Isolation" {
        /// Keep clients apart in the prefix caches of engines, which tell by their timing what others
        /// have asked: with `cache_salt`, each request for a text gets a salt of its client, and only
        /// workers get it that accept `cache_salt` (`dynamo-worker --accepts`); with `best_effort`,
        /// the others get it as well, without a salt. `none` changes nothing
        isolation: IsolationMode = flag("MODE").default("none");
        /// File with the secret of which salts are made: at least 32 bytes, the same for all frontends
        /// of the same workers. One line end at the end does not count
        cache_salt_secret_file: Option<PathBuf> = flag("FILE");
    }

    Balancing "Balancing" {
        /// How a worker is picked: `round-robin`, `random`, `power-of-two` (of two at random, the one
        /// with fewer requests in flight), `least-loaded` (the one with the least outstanding work),
        /// `affinity` (the same one for the same session, while it has no more than twice its share),
        /// or `cache-aware` (the one that has most of the prompt in its cache, unless waiting there
        /// costs more than computing it elsewhere)
        router_mode: RouterMode = flag("MODE").or("DYN_ROUTER_MODE").default("cache-aware");
        /// How many frontends send requests to the same workers, for `cache-aware`: above 1, they agree
        /// without a word on the worker of a prompt that none of them knows. Without it, and with
        /// --usage-store, the frontends of the group that are present count
        frontends: NonZeroUsize = flag("COUNT").default("1");
        /// Header that names a session, for `affinity` and `cache-aware`
        affinity_header: HeaderName = flag("NAME").default("x-session-id");
        /// How many requests one worker may have in flight; without it there is no limit, and engines
        /// queue by themselves
        worker_concurrency: Option<NonZeroUsize> = flag("REQUESTS").followed();
        /// How many requests may wait for one model while all its workers have as many as they may;
        /// above, 429
        queue_depth: usize = flag("REQUESTS").default("256").followed();
        /// How long a request may wait so; then 503
        queue_timeout: Timeout = flag("SECONDS").default("30").followed();
        /// What decides the priority of requests (interactive, default, bulk), by which those that wait
        /// are ordered: with `keys`, each key has one, and may let requests name theirs in the header
        /// `x-dynamo-priority`; with `header`, clients without a key may do so as well. Engines that
        /// accept `priority` (`dynamo-worker --accepts`) are told, and a client's own field of that
        /// name goes to none. `none` changes nothing
        priority: PriorityMode = flag("MODE").default("none");
        /// How long a request waits for a model that may come: one that its client could see within the
        /// last ten minutes, or an alias of the configuration file; then 503. The request is read and
        /// waits even if its route is closed. 0: no request waits
        wait_for_model: Seconds = flag("SECONDS").default("0").followed();
        /// What share of the requests of the last seconds may be sent a second time, beside ten a
        /// second; 0: none is. A request of which no byte was written always goes elsewhere
        retry_budget: Percent = flag("PERCENT").default("20");
        /// Below this share of a model's workers in rotation, those whose answers fail are used as well
        panic_threshold: Percent = flag("PERCENT").default("50");
        /// How long a worker that sends nothing is left alone between two probes of its `/health`; 0
        /// turns probes off, and not the questions to control ports
        worker_probe_interval: Seconds = flag("SECONDS").default("2");
    }

    Store "Store" {
        /// Where workers register: `etcd`, or `memory`, which lives in one process and is for a
        /// frontend with --worker-url
        discovery_backend: Backend = flag("BACKEND").or("DYN_DISCOVERY_BACKEND").default("etcd");
        /// Keys are below `ROOT/models/` in place of `models/`, where no other program finds them. Give
        /// the same to frontends and workers
        root: Option<Root> = flag("ROOT").or("DYN_STORE_ROOT");
        /// Endpoints of etcd, separated by commas
        etcd_endpoints: Endpoints =
            flag("URLS").or("ETCD_ENDPOINTS").default("http://localhost:2379");
        /// User name for etcd
        etcd_username: Option<String> = flag("NAME").or("ETCD_AUTH_USERNAME");
        /// Password for etcd. There is no flag, since other users can read those
        etcd_password: Option<String> = variable("ETCD_AUTH_PASSWORD", "PASSWORD").secret();
        /// File with the password for etcd. It is read again for each new token, so a password may
        /// change without a restart
        etcd_password_file: Option<PathBuf> = flag("FILE").or("ETCD_AUTH_PASSWORD_FILE");
        /// Authority that signed etcd's certificate, PEM; else those of the system
        etcd_ca: Option<PathBuf> = flag("FILE").or("ETCD_AUTH_CA");
        /// Client certificate for etcd, PEM
        etcd_client_cert: Option<PathBuf> = flag("FILE").or("ETCD_AUTH_CLIENT_CERT");
        /// Key of the client certificate, PEM
        etcd_client_key: Option<PathBuf> = flag("FILE").or("ETCD_AUTH_CLIENT_KEY");
    }

    Access "Access log" {
        /// A file for a line of JSON about each request, or `-` for stdout. A line that finds the disk
        /// full, or its reader too slow, is lost and counted. SIGHUP has the file opened again. By
        /// default there is none
        access_log: Option<PathBuf> = flag("FILE").or("DYN_ACCESS_LOG");
    }

    Tracing "Traces" {
        /// The collector of traces, in OTLP over HTTP; traces go to its path `/v1/traces`. By default
        /// there are no traces
        otel_exporter_otlp_endpoint: Option<WorkerUrl> =
            variable("OTEL_EXPORTER_OTLP_ENDPOINT", "URL");
        /// The collector of traces, by its whole URL, which wins over `OTEL_EXPORTER_OTLP_ENDPOINT`
        otel_exporter_otlp_traces_endpoint: Option<WorkerUrl> =
            variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "URL");
        /// Headers for the collector of traces, such as a key: `NAME=VALUE,NAME=VALUE`, with percent-encoding
        otel_exporter_otlp_headers: Option<String> =
            variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "LIST")
                .or("OTEL_EXPORTER_OTLP_HEADERS")
                .secret();
        /// Authorities that are trusted for an `https` collector, PEM, beside those of the system
        otel_exporter_otlp_certificate: Option<PathBuf> =
            variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "FILE")
                .or("OTEL_EXPORTER_OTLP_CERTIFICATE");
        /// How long the collector of traces may take for one request, in milliseconds
        otel_exporter_otlp_timeout: NonZeroU64 =
            variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "MILLISECONDS")
                .or("OTEL_EXPORTER_OTLP_TIMEOUT")
                .default("10000");
        /// The protocol of traces: no other is spoken
        otel_exporter_otlp_protocol: OtlpProtocol =
            variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "PROTOCOL")
                .or("OTEL_EXPORTER_OTLP_PROTOCOL")
                .default("http/protobuf");
        /// `none`: no traces
        otel_traces_exporter: TracesExporter =
            variable("OTEL_TRACES_EXPORTER", "EXPORTER").default("otlp");
        /// `true`: no traces
        otel_sdk_disabled: YesNo = variable("OTEL_SDK_DISABLED", "YES|NO").default("false");
        /// Whether requests without a `traceparent` are traced: all, none
        /// (`parentbased_always_off`), or a share (`parentbased_traceidratio`). With a `traceparent`
        /// its flag decides
        otel_traces_sampler: Sampler =
            variable("OTEL_TRACES_SAMPLER", "SAMPLER").default("parentbased_always_on");
        /// The share of requests without a `traceparent` that are traced, from 0 to 1, where
        /// `OTEL_TRACES_SAMPLER` is `parentbased_traceidratio`
        otel_traces_sampler_arg: Share = variable("OTEL_TRACES_SAMPLER_ARG", "SHARE").default("1");
        /// The name of the service in traces
        otel_service_name: String =
            variable("OTEL_SERVICE_NAME", "NAME").default("dynamo-frontend");
        /// Further attributes of the service in traces: `NAME=VALUE,NAME=VALUE`, with percent-encoding
        otel_resource_attributes: Option<String> = variable("OTEL_RESOURCE_ATTRIBUTES", "LIST");
    }

    Usage "Usage" {
        /// Whether the tokens of answers are counted: `observe` reads what engines tell, `ask` also asks
        /// engines that accept it to tell the usage of streamed chats and completions, and takes it out
        /// again, `off` reads nothing and has no metrics of tokens
        usage: UsageMode = flag("MODE").or("DYN_USAGE").default("observe");
        /// Where frontends share what API keys have used of their tokens a day and a month: `etcd`, or
        /// `none`, so that each frontend counts alone and anew after a restart
        usage_store: UsageStore = flag("STORE").or("DYN_USAGE_STORE").default("none");
    }

    Counted "Usage of keys" {
        /// Group of frontends that count together: those with one file of API keys. By default the
        /// namespace's name; needed where all namespaces are discovered
        usage_group: Option<GroupName> = flag("NAME").or("DYN_USAGE_GROUP");
    }

    Limits "Limits" {
        /// Largest request body, in MiB
        http_body_limit_mb: Mebibytes =
            flag("MIB").or("DYN_HTTP_BODY_LIMIT_MB").default("192").followed();
        /// Request bodies in memory at one time, all together, in MiB; over it, requests get 503. By
        /// default a quarter of the memory that the process's cgroups allow, and 1024 at most
        http_body_memory_mb: Option<Mebibytes> = flag("MIB").followed();
        /// Largest request head, in KiB
        http_header_limit_kb: Kibibytes = flag("KIB").default("64");
        /// Most header fields of a request
        http_header_count: NonZeroUsize = flag("COUNT").default("100");
        /// How long a request's head may take to arrive
        http_header_timeout: Timeout = flag("SECONDS").default("10");
        /// The time in which a request's body that goes on must bring 1 KiB for each second
        http_body_stall_timeout: Timeout = flag("SECONDS").default("30").followed();
        /// How long a client may take nothing of its answer
        http_write_stall_timeout: Timeout = flag("SECONDS").default("300");
        /// How long an idle connection stays open
        http_keep_alive: Timeout = flag("SECONDS").default("620");
        /// Most connections of clients at one time; above, a new one gets 503. By default 80 % of the
        /// descriptors that the process may have
        max_connections: Option<NonZeroUsize> = flag("COUNT");
        /// Most connections from one address, or from one /64 network of IPv6. By default there is no
        /// such limit, since behind a load balancer all clients have its address
        max_connections_per_ip: Option<NonZeroUsize> = flag("COUNT");
        /// Most requests under way at one time on one connection of HTTP/2
        http2_streams: NonZeroU32 = flag("COUNT").default("200");
        /// How long connecting to a worker may take
        connect_timeout: Timeout = flag("SECONDS").default("2");
        /// How long a worker may take to begin its answer; a queued request gets none for minutes
        first_byte_timeout: Timeout = flag("SECONDS").default("600").followed();
        /// How long a worker's answer may stand still
        stream_idle_timeout: Timeout = flag("SECONDS").default("300").followed();
        /// After how long without a byte an event stream gets a comment, so that proxies and clients
        /// do not take it for dead; it is no sign of life of the worker. By default it gets none
        sse_keepalive: Option<Timeout> = flag("SECONDS").or("DYN_SSE_KEEPALIVE");
    }

    Identity "Identity" {
        /// Namespace that the worker belongs to. The variable is the fallback
        namespace: String = flag("NAMESPACE").or(env::NAMESPACE).default("global");
        /// Appended to the namespace, `<namespace>-<suffix>`: the generation of a rolling update
        namespace_worker_suffix: Option<String> =
            variable(env::NAMESPACE_WORKER_SUFFIX, "SUFFIX");
        /// Component that the worker belongs to; else `prefill` with --is-prefill-worker, else
        /// `backend`
        component: Option<String> = flag("COMPONENT");
        /// The worker only prefills for others: its component is `prefill`, which opens no route
        is_prefill_worker: bool = switch();
    }

    Engine "Engine" {
        /// Base URL of the engine, an OpenAI-compatible server; with COMMAND, where that will listen
        url: Option<WorkerUrl> = flag("URL");
        /// Base URL under which frontends reach the engine; else that of --url
        advertise_url: Option<WorkerUrl> = flag("URL");
        /// File with the key that the engine wants from those who ask for its health and models
        engine_api_key_file: Option<PathBuf> = flag("FILE").reloadable();
        /// Authorities that an `https` engine is trusted by when it is asked for its health and models,
        /// PEM, beside those of the system
        engine_ca: Option<PathBuf> = flag("FILE").reloadable();
        /// Give up when the engine is not healthy, with a model, by then; else it may take as long as
        /// it takes
        start_timeout: Option<Timeout> = flag("SECONDS");
        /// Withdraw an engine that accepts connections and shows no sign of life for so long; no
        /// shorter than the --first-byte-timeout of the frontends, since some engines answer nothing
        /// while they generate
        silence_timeout: Timeout = flag("SECONDS").default("600");
        /// How long the engine goes on after its models are withdrawn, before it is asked to end
        drain_grace: Seconds = flag("SECONDS").default("5");
        /// How long the engine may take to end after SIGTERM, before SIGKILL; in the last 5 s (or the
        /// second half) all that it has started gets SIGTERM
        stop_timeout: Seconds = flag("SECONDS").default("60");
    }

    Models "Models" {
        /// Name of a model; repeatable. For engines that list none, or the wrong ones
        model: Vec<ModelName> = flag("NAME");
        /// What the models can do, such as `Chat | Completions` or `embedding`. By default
        /// `Chat | Completions`, for --echo also `Embedding`: an engine's list of models does not tell
        model_type: Option<Kinds> = flag("KINDS");
        /// Context length of the models; else as the engine lists it
        context_length: Option<NonZeroU64> = flag("TOKENS");
        /// Optional fields of requests that the engine acts on, separated by commas: `include_usage`,
        /// `cache_salt`, `priority`; empty for none. By default `include_usage` for an engine whose
        /// models are owned by `vllm`, `sglang`, `llamacpp` or `echo`, and none for others
        accepts: Option<Accepts> = flag("FIELDS");
    }

    Control "Control port" {
        /// Address that the control port listens on, by which frontends tell the worker from a
        /// stranger at its address; else the host of the advertised URL. Without an address of this
        /// machine there is no control port
        control_host: Option<String> = flag("HOST");
        /// Port that the control port listens on; 0 takes a free one, which the log tells
        control_port: u16 = flag("PORT").default("0");
        /// Address under which frontends reach the control port, without a path; else where it
        /// listens. With it, and an advertised URL that is not on this machine, it listens on all
        /// addresses
        control_advertise_url: Option<ControlUrl> = flag("URL");
        /// File with the key of those who may ask the control port to drain and to undrain; without it
        /// nobody may
        control_key_file: Option<PathBuf> = flag("FILE").reloadable();
        /// Have no control port: then frontends cannot tell the worker from a stranger at its address
        no_control: bool = switch();
    }

    Echo "Echo engine" {
        /// Serve a built-in engine that repeats what it is told, for trials and load tests
        echo: bool = switch();
        /// Address that the echo engine listens on
        echo_host: String = flag("HOST").default("127.0.0.1");
        /// Port that the echo engine listens on; 0 takes a free one
        echo_port: u16 = flag("PORT").default("0");
        /// How long the echo engine waits before each token
        echo_delay_ms: u32 = flag("MILLISECONDS").default("5");
    }

    Lease "Lease" {
        /// How long the models outlive a worker that died; at least 2, and less than 10 risks losing
        /// live ones
        lease_ttl: LeaseTtl = flag("SECONDS").or("ETCD_LEASE_TTL").default("10");
    }

    Output "Output" {
        /// `json`, one object with namespace, component, endpoint and endpoint_id; or `env`, the same
        /// as lines DYN_WORKER_NAMESPACE=… for a shell's `eval`
        format: Format = flag("FORMAT").default("json");
    }

    Shown "Output" {
        /// How entries are printed: `table`, `wide` with more columns, or `json` with one object a line
        output: EntryFormat = flag("FORMAT").short('o').default("table");
    }

    Asking "Workers" {
        /// File with the key that control ports want from those who drain workers
        control_key_file: Option<PathBuf> = flag("FILE");
        /// File with the key that engines want from those who ask for their health and models
        worker_api_key_file: Option<PathBuf> = flag("FILE");
        /// Authorities that `https` workers are trusted by, PEM, beside those of the system
        worker_ca: Option<PathBuf> = flag("FILE");
    }

    QuietLogs "Logs" {
        /// Which logs are written to stderr, beside what was asked for, such as `debug`
        log: String = variable("DYN_LOG", "FILTER").or(RUST_LOG).default("warn");
        /// Logs as one JSON object a line
        logging_jsonl: YesNo = variable("DYN_LOGGING_JSONL", "YES|NO").default("0");
    }

    Logs "Logs" {
        /// Which logs are written to stderr, such as `debug` or `info,dynamo_http=debug`
        log: String = variable("DYN_LOG", "FILTER").or(RUST_LOG).default("info").followed();
        /// Logs as one JSON object a line
        logging_jsonl: YesNo = variable("DYN_LOGGING_JSONL", "YES|NO").default("0");
    }

    Config "Configuration file" {
        /// File with settings by their names, in YAML: `http_port: 8000`. A flag or a variable wins
        /// over the file
        config: Option<PathBuf> = flag("FILE").or("DYN_CONFIG").reloadable();
    }
}
