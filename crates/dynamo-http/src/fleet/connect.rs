//! Connecting to a worker: resolve, refuse addresses that are never a worker's, connect, maybe TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{WorkerUrl, is_forbidden_address};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::network::Network;
use super::read_on::ReadOn;
use crate::serve::Joined;
use crate::tcp;
#[cfg(feature = "tls")]
use crate::tls::WorkerTls;

/// A connection's bytes.
#[cfg(not(feature = "tls"))]
pub(crate) type Transport = Joined<ReadOn<TcpStream>>;
/// A connection's bytes, encrypted or not.
#[cfg(feature = "tls")]
pub(crate) type Transport = Joined<ReadOn<super::transport::MaybeTls>>;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// It says nothing about the worker: this machine lacks descriptors, ports or memory, or its
    /// resolver does not answer.
    Ours(io::Error),
    /// The worker's address takes no connection, or is no address to connect to.
    Theirs(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        if is_ours(&error) { Self::Ours(error) } else { Self::Theirs(error) }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(error) => write!(f, "this machine's own trouble: {error}"),
            Self::Theirs(error) => error.fmt(f),
        }
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

/// What the error of a look-up says. The standard library has only the resolver's own words for it:
/// these are glibc's and musl's for a server of names that does not answer.
fn unresolved(error: io::Error) -> ConnectError {
    const NO_ANSWER: [&str; 2] = ["Temporary failure in name resolution", "Try again"];

    let text = error.to_string();
    if NO_ANSWER.iter().any(|words| text.ends_with(words)) {
        return ConnectError::Ours(error);
    }
    error.into()
}

/// Opens connections to workers.
#[derive(Clone)]
pub(crate) struct Connector {
    timeout: Duration,
    /// Where workers may be; none is anywhere.
    networks: Arc<[Network]>,
    #[cfg(feature = "tls")]
    tls: WorkerTls,
}

impl Connector {
    /// Connects within the time-out, and only to addresses in these networks; none: to any.
    pub(crate) fn new(timeout: Duration, networks: &[Network]) -> Self {
        Self {
            timeout,
            networks: networks.into(),
            #[cfg(feature = "tls")]
            tls: WorkerTls::default(),
        }
    }

    /// The same with other authorities for `https` workers.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(self, tls: WorkerTls) -> Self {
        Self { tls, ..self }
    }

    /// Connects within the time-out, to the first address that takes us.
    pub(crate) async fn connect(&self, url: &WorkerUrl) -> Result<Transport, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        let connect = async {
            let stream = self.connect_tcp(url.host(), url.port(), deadline).await?;
            tcp::prepare(&stream)?;
            Ok(self.secure(stream, url).await?)
        };
        let late = |_| Err(ConnectError::Theirs(io::ErrorKind::TimedOut.into()));
        timeout_at(deadline, connect).await.unwrap_or_else(late)
    }

    /// Tries the addresses one after the other. Each but the last gets half of the time that is
    /// left, so that one that does not answer leaves time for the next.
    async fn connect_tcp(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let resolved = timeout_at(deadline, lookup_host((host, port))).await;
        let silent = |_| ConnectError::Ours(io::Error::other("the resolver does not answer"));
        let addresses = resolved.map_err(silent)?.map_err(unresolved)?;
        let mut addresses = addresses.filter(|address| self.permits(address)).peekable();
        let mut error = io::Error::new(io::ErrorKind::AddrNotAvailable, "no permitted address");
        while let Some(address) = addresses.next() {
            let now = Instant::now();
            let until = match addresses.peek() {
                Some(_) => now + deadline.saturating_duration_since(now) / 2,
                None => deadline,
            };
            match timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(refused)) => error = refused,
                Err(_) => error = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(error.into())
    }

    /// Checked on what a name resolved to: so `0x7f000001`, and a name whose answer changes, are
    /// judged by where they lead.
    fn permits(&self, address: &SocketAddr) -> bool {
        let listed = |network: &Network| network.contains(address.ip());
        let allowed = self.networks.is_empty() || self.networks.iter().any(listed);
        allowed && !is_forbidden_address(address.ip())
    }

    #[cfg(feature = "tls")]
    async fn secure(&self, stream: TcpStream, url: &WorkerUrl) -> io::Result<Transport> {
        let stream = if url.is_https() {
            let stream = self.tls.open(url.host(), stream).await?;
            super::transport::MaybeTls::Tls(Box::new(stream))
        } else {
            super::transport::MaybeTls::Plain(stream)
        };
        Ok(Joined::new(ReadOn::new(stream)))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, stream: TcpStream, url: &WorkerUrl) -> io::Result<Transport> {
        if url.is_https() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "built without TLS"));
        }
        Ok(Joined::new(ReadOn::new(stream)))
    }
}

#[cfg(test)]
impl Default for Connector {
    fn default() -> Self {
        Self::new(Duration::from_secs(2), &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs<T>(result: Result<T, ConnectError>) -> io::ErrorKind {
        match result {
            Err(ConnectError::Theirs(error)) => error.kind(),
            Err(ours) => panic!("{ours}"),
            Ok(_) => panic!("connected"),
        }
    }

    async fn error_of(connector: &Connector, host: &str) -> io::ErrorKind {
        let deadline = Instant::now() + Duration::from_secs(2);
        theirs(connector.connect_tcp(host, 80, deadline).await)
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
        let lookup =
            |words| io::Error::other(format!("failed to lookup address information: {words}"));
        for words in ["Temporary failure in name resolution", "Try again"] {
            assert!(is_ours(unresolved(lookup(words))), "{words}");
        }
        for words in ["Name or service not known", "Name does not resolve"] {
            assert!(!is_ours(unresolved(lookup(words))), "{words}");
        }
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
            let error = error_of(&Connector::default(), host).await;
            assert_eq!(error, io::ErrorKind::AddrNotAvailable, "{host}");
        }
    }

    #[tokio::test]
    async fn only_listed_networks_are_connected_to_however_an_address_is_spelled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = |networks: &[&str]| {
            let networks: Vec<Network> = networks.iter().map(|one| one.parse().unwrap()).collect();
            Connector::new(Duration::from_secs(2), &networks)
        };
        for host in ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:7f00:1]"] {
            let url = format!("http://{host}:{port}").parse().unwrap();
            let error = theirs(connector(&["10.0.0.0/8", "::1"]).connect(&url).await);
            assert_ne!(error, io::ErrorKind::TimedOut, "{host}");
            connector(&["10.0.0.0/8", "127.0.0.0/8"]).connect(&url).await.unwrap();
        }
        let error = error_of(&connector(&["0.0.0.0/0"]), "169.254.169.254").await;
        assert_eq!(error, io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn sockets_to_workers_do_not_wait_to_fill_a_packet() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let transport = Connector::default().connect(&url).await.unwrap();
        assert!(transport.inner().inner().nodelay().unwrap());
    }
}
