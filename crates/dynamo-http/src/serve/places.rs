//! How many connections a listener takes, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use super::options::ServeOptions;

/// The places for connections. Only the listener's own task asks for one.
pub(super) struct Places {
    most: usize,
    most_of_address: usize,
    /// The tokens of the addresses. Each connection of an address holds its token, so the number of
    /// references is the number of connections, and no thread that serves needs a lock.
    tokens: HashMap<IpAddr, Weak<()>>,
    /// With how many tokens those without a connection are thrown away.
    sweep_at: usize,
}

/// A place, held until it is dropped. It holds nothing where addresses are not limited.
pub(super) struct Place {
    _token: Option<Arc<()>>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The listener has as many connections as it takes.
    Listener,
    /// The address has as many as one address may have.
    Address,
}

const SWEEP_AT_LEAST: usize = 64;

impl Places {
    pub(super) fn new(options: &ServeOptions) -> Self {
        let limit = |limit: Option<NonZeroUsize>| limit.map_or(usize::MAX, NonZeroUsize::get);
        Self {
            most: limit(options.max_connections),
            most_of_address: limit(options.max_connections_per_ip),
            tokens: HashMap::new(),
            sweep_at: SWEEP_AT_LEAST,
        }
    }

    /// Takes a place for a connection from `address`, beside `open` ones.
    pub(super) fn take(&mut self, address: IpAddr, open: usize) -> Result<Place, Full> {
        if open >= self.most {
            return Err(Full::Listener);
        }
        if self.most_of_address == usize::MAX {
            return Ok(Place { _token: None });
        }
        let network = network(address);
        let known = self.tokens.get(&network).and_then(Weak::upgrade);
        let token = known.unwrap_or_else(|| self.insert(network));
        // This reference is counted as well.
        if Arc::strong_count(&token) > self.most_of_address {
            return Err(Full::Address);
        }
        Ok(Place { _token: Some(token) })
    }

    fn insert(&mut self, network: IpAddr) -> Arc<()> {
        if self.tokens.len() >= self.sweep_at {
            self.tokens.retain(|_, token| token.strong_count() > 0);
            self.sweep_at = (2 * self.tokens.len()).max(SWEEP_AT_LEAST);
        }
        let token = Arc::new(());
        self.tokens.insert(network, Arc::downgrade(&token));
        token
    }
}

/// An address of IPv4, or the /64 network of one of IPv6, which one host has for itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: Option<usize>, of_address: Option<usize>) -> Places {
        let options = ServeOptions::new()
            .with_max_connections(most.and_then(NonZeroUsize::new))
            .with_max_connections_per_ip(of_address.and_then(NonZeroUsize::new));
        Places::new(&options)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_a_place_again_when_one_of_its_connections_ends() {
        let mut places = places(None, Some(2));
        let one = ip("192.0.2.1");
        let first = places.take(one, 0);
        let _second = places.take(ip("::ffff:192.0.2.1"), 1).ok().unwrap();
        assert_eq!(places.take(one, 2).err(), Some(Full::Address));
        let _other = places.take(ip("192.0.2.2"), 2).ok().unwrap();
        drop(first);
        assert!(places.take(one, 2).is_ok());
    }

    #[test]
    fn addresses_of_one_host_in_ipv6_count_together() {
        let mut places = places(None, Some(1));
        let _held = places.take(ip("2001:db8:0:1::1"), 0).ok().unwrap();
        assert_eq!(places.take(ip("2001:db8:0:1:ffff::2"), 1).err(), Some(Full::Address));
        assert!(places.take(ip("2001:db8:0:2::1"), 1).is_ok());
    }

    #[test]
    fn a_listener_takes_no_more_connections_than_its_limit() {
        let mut limited = places(Some(3), None);
        assert!(limited.take(ip("192.0.2.1"), 2).is_ok());
        assert_eq!(limited.take(ip("192.0.2.1"), 3).err(), Some(Full::Listener));
        assert!(places(None, None).take(ip("192.0.2.1"), usize::MAX - 1).is_ok());
    }

    #[test]
    fn addresses_that_are_gone_are_forgotten() {
        let mut places = places(None, Some(1));
        for number in 0..10_000_u32 {
            let address = IpAddr::V4(number.to_be_bytes().into());
            assert!(places.take(address, 0).is_ok());
        }
        assert!(places.tokens.len() <= SWEEP_AT_LEAST);
    }
}
