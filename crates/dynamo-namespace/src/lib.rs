// The front page of the documentation is the README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod endpoint;
mod namespace;
mod scope;

pub mod env;
pub mod names;

pub use endpoint::{EndpointId, InvalidEndpointId};
pub use env::NAMESPACE as DYNAMO_NAMESPACE_ENV_VAR;
pub use namespace::{GLOBAL_NAMESPACE, InvalidNamespace, Namespace, is_global_namespace};
pub use scope::NamespaceScope;
