//! The options of every TCP socket, of clients and to workers.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

/// How long a connection is silent before the kernel asks the peer for a sign of life. Shorter than
/// the memory of firewalls and balancers between us and the peer: AWS's network balancer forgets a
/// silent connection after 350 s, and a request may wait for its first token for longer.
const SILENCE: Duration = Duration::from_secs(45);
/// How long the kernel waits for that sign before it asks again.
const AGAIN: Duration = Duration::from_secs(15);

/// How many connections a listener keeps until they are accepted, where the kernel's own limit allows it
/// (`net.core.somaxconn` on Linux, 4096 by default).
const WAITING: i32 = 4096;

/// Has a listener keep the connections of a crowd that comes at once. The standard library has it keep
/// 128; the kernel drops the packets of those that come beyond, and their clients try again a second
/// later.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn keep_waiting(listener: &TcpListener) -> io::Result<()> {
    // A listener that listens again only changes this number.
    SockRef::from(listener).listen(WAITING)
}

/// Makes a socket send small pieces at once and notice a peer that is gone.
///
/// # Errors
///
/// When the socket is closed already.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Without it one peer loses 44 ms on each stream, to Nagle and delayed ACK.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(AGAIN);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Gives a connection up whose peer acknowledges nothing for so long. Keepalive does not see such a
/// peer, since it asks only while nothing is under way.
///
/// # Errors
///
/// When the socket is closed already.
pub(crate) fn expect_acks(stream: &TcpStream, within: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return SockRef::from(stream).set_tcp_user_timeout(Some(within));
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (stream, within);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_crowd_of_clients_connects_before_any_of_them_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        keep_waiting(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        // A connection that the listener has no room for is not made before others are accepted.
        let crowd = futures_util::future::join_all((0..400).map(|_| TcpStream::connect(address)));
        let crowd = tokio::time::timeout(Duration::from_secs(60), crowd).await.expect("in time");
        assert!(crowd.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_silent_connection_is_kept_in_the_memory_of_what_is_between_the_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), AGAIN);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_peer_that_acknowledges_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        expect_acks(&stream, Duration::from_secs(7)).unwrap();
        let timeout = SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_secs(7)));
    }
}
