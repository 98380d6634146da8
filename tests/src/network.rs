//! A network between a client and a server. A test can cut the network, darken it without a FIN or
//! RST, or slow it down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::soon;

/// Forwards TCP connections to one address; its [`Link`] says how.
pub struct Network {
    endpoint: String,
    link: watch::Sender<Link>,
    attempts: Arc<AtomicUsize>,
}

/// The state of the link, which all connections share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// All bytes pass.
    Up,
    /// Each connection is closed, also each new one.
    Cut,
    /// No byte passes in these directions, and no FIN or RST either, as after a power loss.
    /// Afterwards a surviving connection delivers the bytes that it held back, as TCP does.
    Dark {
        /// From the client to the server.
        requests: bool,
        /// From the server to the client.
        answers: bool,
    },
    /// Each piece is late by `delay`, in each direction. A share of the pieces is lost: these
    /// pieces, and all behind them, arrive only when TCP has sent them again.
    Slow {
        /// The delay of each piece.
        delay: Duration,
        /// The share of lost pieces, in percent.
        loss: u8,
    },
    /// So many bytes pass in a second, in each direction.
    Narrow(u32),
    /// A connection on which nothing has passed for so long is forgotten, as balancers and firewalls
    /// do: nobody is told, and nothing passes on it any more.
    Forgetful(Duration),
}

/// The shortest retransmission time of TCP on Linux, without the round trip itself.
const RETRANSMISSION: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Request,
    Answer,
}

impl Link {
    /// A link that is dark in both directions.
    pub const BLACK_HOLE: Self = Self::Dark { requests: true, answers: true };

    fn lets_pass(self, way: Way) -> bool {
        match self {
            Self::Dark { requests, answers } => {
                !(if way == Way::Request { requests } else { answers })
            }
            _ => true,
        }
    }

    /// How late a piece of so many bytes is, after the one before.
    fn lateness(self, bytes: usize) -> Duration {
        if let Self::Narrow(rate) = self {
            return Duration::from_secs(1).mul_f64(bytes as f64 / f64::from(rate));
        }
        let Self::Slow { delay, loss } = self else { return Duration::ZERO };
        let lost = fastrand::u8(..100) < loss;
        delay + if lost { RETRANSMISSION + 2 * delay } else { Duration::ZERO }
    }
}

impl Network {
    /// A network that leads to the server at this URL. The server may start later.
    pub async fn to(url: &str) -> Self {
        let (scheme, target) = url.split_once("://").unwrap();
        let (scheme, target) = (scheme.to_owned(), target.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (sender, link) = watch::channel(Link::Up);
        let attempts = Arc::new(AtomicUsize::new(0));
        let counter = attempts.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(near, target.clone(), link.clone()));
            }
        });
        Self { endpoint, link: sender, attempts }
    }

    /// The URL of the near end.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The number of connections that clients have opened.
    pub fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    /// Sets the state of the link.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Closes each connection, also each new one.
    pub fn cut(&self) {
        self.set(Link::Cut);
    }

    /// Lets all bytes pass again.
    pub fn heal(&self) {
        self.set(Link::Up);
    }
}

async fn forward(near: TcpStream, target: String, link: watch::Receiver<Link>) {
    let both = async {
        // In the dark, a new connection does not reach the server.
        let mut requests = link.clone();
        requests.wait_for(|link| link.lets_pass(Way::Request)).await.unwrap();
        let Ok(far) = TcpStream::connect(target).await else { return };
        for socket in [&near, &far] {
            socket.set_nodelay(true).unwrap();
        }
        let ((near_read, near_write), (far_read, far_write)) =
            (near.into_split(), far.into_split());
        let passed = Arc::new(Mutex::new(Instant::now()));
        tokio::join!(
            carry(Way::Request, near_read, far_write, link.clone(), passed.clone()),
            carry(Way::Answer, far_read, near_write, link.clone(), passed),
        );
    };
    let mut cut = link.clone();
    tokio::select! {
        () = both => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
    }
}

/// Forwards one direction until it ends.
async fn carry(
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    passed: Arc<Mutex<Instant>>,
) {
    let (underway, mut arriving) = mpsc::unbounded_channel();
    let weather = link.clone();
    let read = async move {
        let mut due = Instant::now();
        loop {
            let mut piece = BytesMut::with_capacity(64 << 10);
            let end = !matches!(from.read_buf(&mut piece).await, Ok(1..));
            let now = Instant::now();
            let weather = *weather.borrow();
            // A narrow line sends one piece after the other.
            let begin = if matches!(weather, Link::Narrow(_)) { now.max(due) } else { now };
            due = begin + weather.lateness(piece.len());
            if underway.send((due, piece)).is_err() || end {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = arriving.recv().await {
            sleep_until(due).await;
            let forgets = match *link.borrow() {
                Link::Forgetful(after) => Some(after),
                _ => None,
            };
            if forgets.is_some_and(|after| passed.lock().unwrap().elapsed() > after) {
                // For ever, in both directions: the one who sends learns nothing.
                std::future::pending::<()>().await;
            }
            *passed.lock().unwrap() = Instant::now();
            if link.wait_for(|link| link.lets_pass(way)).await.is_err()
                || piece.is_empty()
                || to.write_all(&piece).await.is_err()
            {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

/// An address that neither accepts nor refuses connections.
pub struct BlackHole {
    endpoint: String,
    _full: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    /// A port whose accept queue is full: the system drops the packets of further connections.
    pub async fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        soon("a full queue", async {
            let patience = Duration::from_millis(300);
            while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await
            {
                queued.push(stream.unwrap());
            }
        })
        .await;
        Self { endpoint: format!("http://{address}"), _full: (listener, queued) }
    }

    /// Its URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// An address that refuses connections: no program listens on the port of such an old service.
pub const REFUSED: &str = "http://127.0.0.1:1";

/// An address with a name that does not exist (RFC 6761).
pub const UNKNOWN: &str = "http://etcd.invalid:2379";
