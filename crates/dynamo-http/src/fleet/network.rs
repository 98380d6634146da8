//! The networks in which workers may be.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use dynamo_discovery::is_forbidden_address;
use ipnet::IpNet;

/// A network, as `192.0.2.0/24` or `2001:db8::/32` (RFC 4632), or a single address.
///
/// ```
/// use dynamo_http::Network;
///
/// let network: Network = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.3".parse()?));
/// assert!(network.contains("::ffff:192.0.2.3".parse()?), "the same address");
/// assert!(!network.contains("198.51.100.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether an address is in it, also one that IPv6 wraps.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let address = |_| text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(address).map(Self).map_err(|_| InvalidNetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the workers of a namespace may be. A clone is cheap.
///
/// The default is anywhere, but for the addresses that are refused in any case: link-local ones and
/// those of metadata services.
///
/// ```
/// use dynamo_http::Networks;
///
/// let networks = Networks::of(["192.0.2.0/24".parse()?]);
/// assert!(networks.permit("192.0.2.3".parse()?));
/// assert!(!networks.permit("198.51.100.1".parse()?));
/// assert!(Networks::default().permit("198.51.100.1".parse()?));
/// assert!(!Networks::default().permit("169.254.169.254".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Option<Arc<[Network]>>);

impl Networks {
    /// Only in these networks; nowhere, if there are none.
    pub fn of(networks: impl IntoIterator<Item = Network>) -> Self {
        Self(Some(networks.into_iter().collect()))
    }

    /// Whether a worker may be at an address.
    ///
    /// An address is judged, and never a name: so `0x7f000001`, and a name whose addresses change,
    /// are judged by where they lead.
    pub fn permit(&self, address: IpAddr) -> bool {
        let contain = |networks: &[Network]| networks.iter().any(|one| one.contains(address));
        self.0.as_deref().is_none_or(contain) && !is_forbidden_address(address)
    }
}

/// A text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a network or an address, such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.5")]
pub struct InvalidNetwork;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_network_of_its_own() {
        let network: Network = "10.0.0.5".parse().unwrap();
        assert_eq!(network.to_string(), "10.0.0.5/32");
        assert!(network.contains("10.0.0.5".parse().unwrap()));
        assert!(!network.contains("10.0.0.6".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0", "host", "10.0.0.0/8 ", "::/129"] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
    }
}
