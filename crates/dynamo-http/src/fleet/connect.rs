//! Connecting to a worker: resolve, refuse addresses that are never a worker's, connect, maybe TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{ErrorChain, WorkerUrl};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::dial;
use super::network::Networks;
use super::resolve::{Resolve, ResolveError};
use crate::tcp;
#[cfg(feature = "tls")]
use crate::tls::WorkerTls;

/// A connection's bytes.
#[cfg(not(feature = "tls"))]
pub(crate) type Transport = TcpStream;
/// A connection's bytes, encrypted or not.
#[cfg(feature = "tls")]
pub(crate) type Transport = super::transport::MaybeTls;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It says nothing about the worker: this machine lacks descriptors, ports or memory, or its
    /// resolver does not answer.
    #[error("this machine's own trouble: {0}")]
    Ours(io::Error),
    /// The worker's address takes no connection, or is no address to connect to.
    #[error("{0}")]
    Theirs(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        if is_ours(&error) { Self::Ours(error) } else { Self::Theirs(error) }
    }
}

/// Whether the error of a socket is this machine's own trouble.
fn is_ours(error: &io::Error) -> bool {
    #[cfg(unix)]
    const OURS: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS];
    #[cfg(not(unix))]
    const OURS: [i32; 0] = [];

    error.raw_os_error().is_some_and(|number| OURS.contains(&number))
}

/// Whether a host is an address, and no name.
pub(super) fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// A new connection, and the address that it leads to.
pub(crate) struct Connected {
    pub(crate) transport: Transport,
    pub(crate) address: IpAddr,
}

/// Opens connections to workers.
#[derive(Clone)]
pub(crate) struct Connector {
    timeout: Duration,
    resolver: Arc<dyn Resolve>,
    #[cfg(feature = "tls")]
    tls: WorkerTls,
}

impl Connector {
    /// Connects within the time-out, to the addresses that the resolver finds.
    pub(crate) fn new(timeout: Duration, resolver: Arc<dyn Resolve>) -> Self {
        Self {
            timeout,
            resolver,
            #[cfg(feature = "tls")]
            tls: WorkerTls::default(),
        }
    }

    /// The same with other authorities for `https` workers.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(self, tls: WorkerTls) -> Self {
        Self { tls, ..self }
    }

    /// Connects within the time-out, to the first address in these networks that takes us.
    pub(crate) async fn connect(
        &self,
        url: &WorkerUrl,
        networks: &Networks,
    ) -> Result<Connected, ConnectError> {
        let connect = async {
            let found = self.addresses(url.host()).await?;
            let permitted = found.into_iter().filter(|address| networks.permit(*address));
            let permitted = dial::order(permitted);
            if permitted.is_empty() {
                let kind = io::ErrorKind::AddrNotAvailable;
                return Err(ConnectError::Theirs(io::Error::new(kind, "no permitted address")));
            }
            let addresses = permitted.into_iter().map(|ip| SocketAddr::new(ip, url.port()));
            let stream = dial::dial(addresses, is_ours).await?;
            tcp::prepare(&stream)?;
            let address = stream.peer_addr()?.ip();
            Ok(Connected { transport: self.secure(stream, url).await?, address })
        };
        let late = |_| Err(ConnectError::Theirs(io::ErrorKind::TimedOut.into()));
        // The look-up has a part of this time, so that its lateness is not the worker's.
        timeout(self.timeout, connect).await.unwrap_or_else(late)
    }

    /// The addresses of a host, within the time-out.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        match timeout(self.timeout / 4 * 3, self.resolver.resolve(host)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_) | Err(ResolveError::NotFound)) => {
                Err(ConnectError::Theirs(io::Error::other(ResolveError::NotFound)))
            }
            Ok(Err(error @ ResolveError::NoAnswer(_))) => {
                Err(ConnectError::Ours(io::Error::other(ErrorChain(&error).to_string())))
            }
            Err(_) => Err(ConnectError::Ours(io::Error::other("the resolver does not answer"))),
        }
    }

    #[cfg(feature = "tls")]
    async fn secure(&self, stream: TcpStream, url: &WorkerUrl) -> io::Result<Transport> {
        if !url.is_https() {
            return Ok(Transport::Plain(stream));
        }
        let stream = self.tls.open(url.host(), stream).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, stream: TcpStream, url: &WorkerUrl) -> io::Result<Transport> {
        if url.is_https() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "built without TLS"));
        }
        Ok(stream)
    }
}

#[cfg(test)]
impl Default for Connector {
    fn default() -> Self {
        Self::new(Duration::from_secs(2), Arc::new(super::resolve::SystemResolver))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::network::Network;
    use super::super::resolve::Resolving;
    use super::*;

    fn theirs<T>(result: Result<T, ConnectError>) -> io::ErrorKind {
        match result {
            Err(ConnectError::Theirs(error)) => error.kind(),
            Err(ours) => panic!("{ours}"),
            Ok(_) => panic!("connected"),
        }
    }

    fn only(networks: &[&str]) -> Networks {
        Networks::of(networks.iter().map(|one| one.parse::<Network>().unwrap()))
    }

    #[test]
    fn what_this_machine_lacks_says_nothing_about_a_worker() {
        let is_ours = |error| matches!(error, ConnectError::Ours(_));
        for number in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS] {
            assert!(is_ours(io::Error::from_raw_os_error(number).into()), "{number}");
        }
        for number in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ETIMEDOUT] {
            assert!(!is_ours(io::Error::from_raw_os_error(number).into()), "{number}");
        }
    }

    /// A resolver with one answer for every name.
    #[derive(Debug)]
    enum Fake {
        Says(&'static [&'static str]),
        Knows(Vec<IpAddr>),
        Fails,
        Waits,
    }

    impl Resolve for Fake {
        fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
            Box::pin(async move {
                match self {
                    Self::Says(list) => Ok(list.iter().map(|one| one.parse().unwrap()).collect()),
                    Self::Knows(list) => Ok(list.clone()),
                    Self::Fails => Err(ResolveError::NoAnswer("SERVFAIL".into())),
                    Self::Waits => std::future::pending().await,
                }
            })
        }
    }

    fn resolving(fake: Fake) -> Connector {
        Connector::new(Duration::from_secs(2), Arc::new(fake))
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_answer_says_nothing_about_a_worker() {
        let url = "http://gpu-7.example:1".parse().unwrap();
        for fake in [Fake::Fails, Fake::Waits] {
            let connected = resolving(fake).connect(&url, &Networks::default()).await;
            assert!(matches!(connected, Err(ConnectError::Ours(_))));
        }
        for gone in [Fake::Says(&[]), Fake::Says(&["169.254.169.254", "fe80::1"])] {
            theirs(resolving(gone).connect(&url, &Networks::default()).await);
        }
        // An address is not looked up.
        let url = "http://127.0.0.1:1".parse().unwrap();
        theirs(resolving(Fake::Waits).connect(&url, &Networks::default()).await);
    }

    #[tokio::test]
    async fn of_several_addresses_those_that_are_permitted_are_tried_until_one_answers() {
        // All of 127.0.0.0/8 is this machine; the listener has one address of it.
        let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://gpu-7.example:{port}").parse().unwrap();
        let known = ["169.254.169.254", "127.0.0.2", "127.0.0.3"].map(|one| one.parse().unwrap());
        let connector = resolving(Fake::Knows(known.into()));
        let connected = connector.connect(&url, &Networks::default()).await.unwrap();
        assert_eq!(connected.address, known[2]);
        connector.connect(&url, &only(&["127.0.0.3"])).await.unwrap();
        let refused = theirs(connector.connect(&url, &only(&["127.0.0.2"])).await);
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
        let elsewhere = theirs(connector.connect(&url, &only(&["192.0.2.0/24"])).await);
        assert_eq!(elsewhere, io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn link_local_addresses_are_refused_however_they_are_spelled() {
        for host in [
            "169.254.169.254",
            // 169.254.169.254 as one number, which the resolver understands.
            "0xa9fea9fe",
            "2852039166",
            "fe80::1",
            "::ffff:169.254.169.254",
        ] {
            let found = Connector::default().addresses(host).await.unwrap();
            assert!(!found.is_empty(), "{host}");
            for networks in [Networks::default(), only(&["0.0.0.0/0", "::/0"])] {
                assert!(!found.iter().any(|address| networks.permit(*address)), "{host}");
            }
        }
    }

    #[tokio::test]
    async fn only_listed_networks_are_connected_to_however_an_address_is_spelled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = Connector::default();
        for host in ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:7f00:1]"] {
            let url = format!("http://{host}:{port}").parse().unwrap();
            let error = theirs(connector.connect(&url, &only(&["10.0.0.0/8"])).await);
            assert_eq!(error, io::ErrorKind::AddrNotAvailable, "{host}");
            connector.connect(&url, &only(&["10.0.0.0/8", "127.0.0.0/8"])).await.unwrap();
        }
    }

    #[tokio::test]
    async fn sockets_to_workers_do_not_wait_to_fill_a_packet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connected = Connector::default().connect(&url, &Networks::default()).await.unwrap();
        assert!(connected.transport.nodelay().unwrap());
    }
}
