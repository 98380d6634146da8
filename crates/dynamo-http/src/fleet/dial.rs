//! Connecting to one of several addresses, as RFC 8305 (happy eyeballs) has it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long an address has for itself before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// How many addresses of a name are tried.
const MOST: usize = 8;

/// The order in which addresses are tried: the families take turns, beginning with that of the first
/// address, and each keeps its own order. An address that comes twice is tried once.
pub(super) fn order(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut families = [Vec::new(), Vec::new()];
    let mut first_is_v6 = None;
    for address in addresses {
        let is_v6 = *first_is_v6.get_or_insert(address.is_ipv6());
        let family = &mut families[usize::from(address.is_ipv6() != is_v6)];
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let [same, other] = families;
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    while ordered.len() < MOST {
        let before = ordered.len();
        ordered.extend(same.next());
        ordered.extend(other.next());
        if ordered.len() == before {
            break;
        }
    }
    ordered.truncate(MOST);
    ordered
}

/// Connects to the first address that takes us. The next one is tried when the one before has failed,
/// or has had its head start.
///
/// # Errors
///
/// Of the address that failed last; one that is `ours`, so that it says nothing about the address,
/// only where there is no other.
pub(super) async fn dial(
    addresses: impl IntoIterator<Item = SocketAddr>,
    ours: fn(&io::Error) -> bool,
) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter().peekable();
    let mut error = None;
    let mut trying = FuturesUnordered::new();
    loop {
        trying.extend(addresses.next().map(TcpStream::connect));
        let is_last = addresses.peek().is_none();
        tokio::select! {
            tried = trying.next() => match tried {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(failed)) if error.is_none() || !ours(&failed) => error = Some(failed),
                Some(Err(_)) => {}
                None => {
                    let nowhere = || io::Error::from(io::ErrorKind::AddrNotAvailable);
                    return Err(error.unwrap_or_else(nowhere));
                }
            },
            () = sleep(HEAD_START), if !is_last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    fn ips(list: &str) -> Vec<IpAddr> {
        list.split_whitespace().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns_and_no_more_than_eight_addresses_are_tried() {
        for (given, expected) in [
            ("", ""),
            ("192.0.2.1 192.0.2.2", "192.0.2.1 192.0.2.2"),
            ("192.0.2.1 192.0.2.2 ::1", "192.0.2.1 ::1 192.0.2.2"),
            ("::1 ::2 192.0.2.1 ::1", "::1 192.0.2.1 ::2"),
        ] {
            assert_eq!(order(ips(given)), ips(expected), "{given}");
        }
        let many = (0..100).map(|last| IpAddr::from([192, 0, 2, last]));
        assert_eq!(order(many).len(), MOST);
    }

    proptest! {
        #[test]
        fn the_order_invents_and_repeats_nothing(
            given in proptest::collection::vec(any::<(bool, u8)>(), 0..12),
        ) {
            let address = |(six, last): &(bool, u8)| match six {
                true => IpAddr::from([0, 0, 0, 0, 0, 0, 0, u16::from(*last)]),
                false => IpAddr::from([192, 0, 2, *last]),
            };
            let given: Vec<_> = given.iter().map(address).collect();
            let ordered = order(given.iter().copied());
            let mut distinct: Vec<_> = given.clone();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(ordered.len(), distinct.len().min(MOST));
            prop_assert_eq!(ordered.first(), given.first());
            let mut sorted = ordered.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), ordered.len());
            prop_assert!(ordered.iter().all(|one| given.contains(one)));
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_or_is_silent_does_not_keep_us_from_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        // Nobody listens at this port, and no other test gets it.
        let refusing = SocketAddr::from(([127, 0, 0, 1], 1));
        // A listener whose queue is full drops packets, as a host that is off does.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let _in_queue = std::net::TcpStream::connect(silent).unwrap();

        let stream = dial([refusing, silent, here], |_| false).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), here);
        let error = dial([refusing], |_| false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(dial([], |_| false).await.is_err());
    }
}
