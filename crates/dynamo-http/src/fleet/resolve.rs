//! From the name of a worker's host to its addresses.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use tokio::net::lookup_host;

/// Finds the addresses of hosts.
///
/// A front door asks for a name with each new connection to a worker, and every few seconds for the
/// names of the workers in use. It never asks for an address. So a resolver should remember its
/// answers for as long as they are valid.
///
/// ```
/// use std::net::{IpAddr, Ipv4Addr};
/// use std::sync::Arc;
///
/// use dynamo_http::{FrontendConfig, Resolve, ResolveError, Resolving};
///
/// /// Knows one host.
/// #[derive(Debug)]
/// struct One;
///
/// impl Resolve for One {
///     fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
///         let known = host == "gpu-7.example";
///         let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
///         let answer = if known { Ok(vec![address]) } else { Err(ResolveError::NotFound) };
///         Box::pin(std::future::ready(answer))
///     }
/// }
///
/// let config = FrontendConfig::new().with_resolver(Arc::new(One));
/// # let _ = config;
/// ```
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// The addresses of a host, the best one first. The front door bounds the time, tries several
    /// addresses, and refuses those that are never a worker's.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// A look-up under way.
pub type Resolving<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send + 'a>>;

/// Why a host has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name, or it has no address. Whoever registered it is at fault.
    #[error("the name has no address")]
    NotFound,
    /// There is no valid answer. That says nothing about the worker.
    #[error("the resolver does not answer")]
    NoAnswer(#[source] Box<dyn Error + Send + Sync>),
}

/// The resolver of the system: `getaddrinfo`, in a thread for blocking calls. It remembers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let found = lookup_host((host, 0)).await.map_err(from_words)?;
            let mut addresses: Vec<_> = found.map(|found| found.ip()).collect();
            addresses.dedup();
            Ok(addresses)
        })
    }
}

/// What the error of a look-up says. The standard library has only the resolver's own words for it:
/// these are glibc's and musl's for a server of names that does not answer.
fn from_words(error: io::Error) -> ResolveError {
    const NO_ANSWER: [&str; 2] = ["Temporary failure in name resolution", "Try again"];

    let text = error.to_string();
    // An error with a number is of this machine, such as too few descriptors.
    if error.raw_os_error().is_some() || NO_ANSWER.iter().any(|words| text.ends_with(words)) {
        return ResolveError::NoAnswer(error.into());
    }
    ResolveError::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_does_not_answer_is_told_from_a_name_that_is_not_there() {
        let lookup =
            |words| io::Error::other(format!("failed to lookup address information: {words}"));
        for words in ["Temporary failure in name resolution", "Try again"] {
            assert!(matches!(from_words(lookup(words)), ResolveError::NoAnswer(_)), "{words}");
        }
        for words in ["Name or service not known", "Name does not resolve"] {
            assert!(matches!(from_words(lookup(words)), ResolveError::NotFound), "{words}");
        }
        let ours = from_words(io::Error::from_raw_os_error(24));
        assert!(matches!(ours, ResolveError::NoAnswer(_)), "{ours}");
    }
}
