//! The names by which many teams share one cluster: namespaces, scopes over them, and endpoint ids.
//!
//! A worker registers its models under a [`Namespace`]; a frontend sees those that its
//! [`NamespaceScope`] contains. This crate holds the names and the predicates, does no IO, and
//! depends on nothing.
//!
//! ```
//! use dynamo_namespace::{Namespace, NamespaceScope};
//!
//! let scope = NamespaceScope::from_target(Some("team-a"))?;
//! assert!(scope.contains(&"team-a".parse()?));
//! assert!(!scope.contains(&"team-b".parse()?));
//! assert!(!scope.contains(&Namespace::global()));
//!
//! // Without a namespace, or with the global one, a frontend sees all.
//! assert_eq!(NamespaceScope::from_target(None)?, NamespaceScope::All);
//! # Ok::<(), dynamo_namespace::InvalidNamespace>(())
//! ```
//!
//! The names follow NVIDIA Dynamo's namespace isolation (its pull requests 2394 and 2475).

mod endpoint;
mod namespace;
mod scope;

pub mod env;
pub mod names;

pub use endpoint::{EndpointId, InvalidEndpointId};
pub use env::NAMESPACE as DYNAMO_NAMESPACE_ENV_VAR;
pub use namespace::{GLOBAL_NAMESPACE, InvalidNamespace, Namespace, is_global_namespace};
pub use scope::NamespaceScope;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
