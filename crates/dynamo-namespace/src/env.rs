//! Names of the environment variables that the binaries read.
//!
//! They are the names that Dynamo's operators and images already set. They stand here so that no
//! other crate writes the literal.

/// Namespace of a worker, or the namespace that a frontend discovers.
pub const NAMESPACE: &str = "DYN_NAMESPACE";
/// Prefix of the namespaces that a frontend discovers.
pub const NAMESPACE_PREFIX: &str = "DYN_NAMESPACE_PREFIX";
/// Whether the prefix means generations (`1`, the default here) or any text that begins so (`0`).
pub const NAMESPACE_PREFIX_STRICT: &str = "DYN_NAMESPACE_PREFIX_STRICT";
/// Suffix of a worker's namespace: `<namespace>-<suffix>`.
pub const NAMESPACE_WORKER_SUFFIX: &str = "DYN_NAMESPACE_WORKER_SUFFIX";
/// Address that a frontend listens on.
pub const HTTP_HOST: &str = "DYN_HTTP_HOST";
/// Port that a frontend listens on.
pub const HTTP_PORT: &str = "DYN_HTTP_PORT";
/// Address of a frontend's admin port.
pub const ADMIN_HOST: &str = "DYN_ADMIN_HOST";
/// A frontend's admin port.
pub const ADMIN_PORT: &str = "DYN_ADMIN_PORT";
/// How many threads serve requests; Dynamo's name for it.
pub const RUNTIME_NUM_WORKER_THREADS: &str = "DYN_RUNTIME_NUM_WORKER_THREADS";
/// File in which a frontend keeps what its store said.
pub const STATE_FILE: &str = "DYN_STATE_FILE";
/// Largest request body, in MB.
pub const HTTP_BODY_LIMIT_MB: &str = "DYN_HTTP_BODY_LIMIT_MB";
/// File of the certificate that a frontend shows, PEM.
pub const TLS_CERT_PATH: &str = "DYN_TLS_CERT_PATH";
/// File of that certificate's key, PEM.
pub const TLS_KEY_PATH: &str = "DYN_TLS_KEY_PATH";
/// How a frontend picks an instance.
pub const ROUTER_MODE: &str = "DYN_ROUTER_MODE";
/// Where registrations are stored: `etcd` or `memory`.
pub const DISCOVERY_BACKEND: &str = "DYN_DISCOVERY_BACKEND";
/// etcd endpoints, separated by commas.
pub const ETCD_ENDPOINTS: &str = "ETCD_ENDPOINTS";
/// User name for etcd.
pub const ETCD_AUTH_USERNAME: &str = "ETCD_AUTH_USERNAME";
/// Password for etcd.
pub const ETCD_AUTH_PASSWORD: &str = "ETCD_AUTH_PASSWORD";
/// File of the authority that signed etcd's certificate, PEM.
pub const ETCD_AUTH_CA: &str = "ETCD_AUTH_CA";
/// File of the client certificate for etcd, PEM.
pub const ETCD_AUTH_CLIENT_CERT: &str = "ETCD_AUTH_CLIENT_CERT";
/// File of the client certificate's key, PEM.
pub const ETCD_AUTH_CLIENT_KEY: &str = "ETCD_AUTH_CLIENT_KEY";
/// Seconds that a worker's lease lives without being renewed.
pub const ETCD_LEASE_TTL: &str = "ETCD_LEASE_TTL";
/// Filter of the logs, before `RUST_LOG`.
pub const LOG: &str = "DYN_LOG";
/// The usual filter of the logs.
pub const RUST_LOG: &str = "RUST_LOG";
/// Logs as one JSON object a line.
pub const LOGGING_JSONL: &str = "DYN_LOGGING_JSONL";
