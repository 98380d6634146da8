//! The settings of a server.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::connections::Connections;
use crate::config::config;
use crate::threads::Threads;
#[cfg(feature = "tls")]
use crate::tls::ServerTls;

config! {
    /// Deadlines and limits of a server.
    pub struct ServeOptions {
        /// How long the head of a request may take, from its first byte, or from the connection's
        /// beginning for the first one. Default 10 s.
        header_timeout, with_header_timeout: Duration = Duration::from_secs(10);
        /// The largest head of a request, in bytes; above, 431. Default 64 KiB, at least 8 KiB.
        max_header_bytes, with_max_header_bytes: usize = 64 * 1024;
        /// How many header fields a request may have; above, 431. Default 100.
        max_headers, with_max_headers: usize = 100;
        /// How long a connection may be idle between two requests. The default, 620 s,
        /// is longer than most load balancers keep such a connection, so that they close it and not we.
        keep_alive_timeout, with_keep_alive_timeout: Duration = Duration::from_secs(620);
        /// How long a client may take nothing of its answer. Default 300 s.
        write_stall_timeout, with_write_stall_timeout: Duration = Duration::from_secs(300);
        /// How long bytes that were sent may stay unacknowledged before the connection counts as
        /// dead, where the system can tell: on Linux. A client that takes nothing for as long is cut
        /// as well. Default none, which leaves it to the system; Linux takes some 15 minutes.
        ack_timeout, with_ack_timeout: Option<Duration> = None;
        /// How many requests a client may have under way on one connection of HTTP/2. Default 200.
        max_streams, with_max_streams: u32 = 200;
        /// How many connections there may be; above, a new one gets 503 and is closed. Default no limit.
        max_connections, with_max_connections: Option<NonZeroUsize> = None;
        /// How many of them may come from one address, or from one /64 network of IPv6. Behind a load
        /// balancer all clients have its address. Default no limit.
        max_connections_per_ip, with_max_connections_per_ip: Option<NonZeroUsize> = None;
        /// Where connections are counted. Default counts that nobody else reads.
        connections, with_connections: Connections = Connections::default();
        /// How long connections are still accepted after the shutdown: as long as load balancers need to
        /// notice. Default 5 s.
        drain_grace, with_drain_grace: Duration = Duration::from_secs(5);
        /// How long requests may go on after that. Default 30 s.
        drain_timeout, with_drain_timeout: Duration = Duration::from_secs(30);
        /// The threads that serve connections. Default none: the runtime on which [`serve`](crate::serve) is called.
        threads, with_threads: Option<Threads> = None;
        /// Whether requests carry the [`ClientAddress`](crate::ClientAddress) of their connection among
        /// their extensions. Default no.
        client_addresses, with_client_addresses: bool = false;
        #[cfg(feature = "tls")]
        /// What makes connections TLS. Default none.
        tls, with_tls: Option<ServerTls> = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_outlives_the_600_seconds_of_googles_balancers() {
        let kept = ServeOptions::default().keep_alive_timeout;
        assert!(kept > Duration::from_secs(600), "{kept:?}");
    }
}
