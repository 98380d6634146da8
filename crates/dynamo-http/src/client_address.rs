//! The address of a client.

use std::net::IpAddr;

/// The address from which a client's connection comes. Behind a load balancer, that is the balancer's.
///
/// [`serve`](crate::serve) puts it into the extensions of requests where
/// [`with_client_addresses`](crate::ServeOptions::with_client_addresses) asks for that. Other servers
/// can do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);
