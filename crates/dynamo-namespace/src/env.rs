//! Names of the environment variables that say a namespace.
//!
//! Dynamo's operators and images set them.

/// Namespace of a worker, or the namespace that a frontend discovers.
pub const NAMESPACE: &str = "DYN_NAMESPACE";
/// Prefix of the namespaces that a frontend discovers.
pub const NAMESPACE_PREFIX: &str = "DYN_NAMESPACE_PREFIX";
/// Whether the prefix means generations (`1`, the default here) or any text that begins so (`0`).
pub const NAMESPACE_PREFIX_STRICT: &str = "DYN_NAMESPACE_PREFIX_STRICT";
/// Suffix of a worker's namespace: `<namespace>-<suffix>`.
pub const NAMESPACE_WORKER_SUFFIX: &str = "DYN_NAMESPACE_WORKER_SUFFIX";
