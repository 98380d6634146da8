//! A network between a client and a server that can be cut, lose everything without a word, or be
//! slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::soon;

/// Forwards TCP connections to one address, as well as its [`Link`] lets it.
pub struct Network {
    endpoint: String,
    link: watch::Sender<Link>,
    attempts: Arc<AtomicUsize>,
}

/// What happens to the connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// All pass.
    Up,
    /// Every connection is ended, and each new one at once.
    Cut,
    /// Nothing passes in these directions, and nobody is told: no FIN and no RST, as after a power
    /// loss. When that is over, a connection that lives on delivers what it held back, as TCP does.
    Dark {
        /// From the client to the server.
        requests: bool,
        /// From the server to the client.
        answers: bool,
    },
    /// Every piece is late by this, in each direction. Of a hundred pieces, so many are lost: they,
    /// and all behind them, come only when TCP has sent them again.
    Slow {
        /// For all.
        delay: Duration,
        /// In percent.
        loss: u8,
    },
}

/// How long TCP takes at least to send something again (the least of Linux), beside the way itself.
const RETRANSMISSION: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Request,
    Answer,
}

impl Link {
    /// Dark in both directions.
    pub const BLACK_HOLE: Self = Self::Dark { requests: true, answers: true };

    fn lets_pass(self, way: Way) -> bool {
        match self {
            Self::Dark { requests, answers } => {
                !(if way == Way::Request { requests } else { answers })
            }
            _ => true,
        }
    }

    /// How late one piece is.
    fn lateness(self) -> Duration {
        let Self::Slow { delay, loss } = self else { return Duration::ZERO };
        let lost = fastrand::u8(..100) < loss;
        delay + if lost { RETRANSMISSION + 2 * delay } else { Duration::ZERO }
    }
}

impl Network {
    /// A network that leads to the server at this URL, which need not be there yet.
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
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How many connections were asked for.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    /// From now on, this happens.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Ends every connection, and each new one at once.
    pub fn cut(&self) {
        self.set(Link::Cut);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.set(Link::Up);
    }
}

async fn forward(near: TcpStream, target: String, link: watch::Receiver<Link>) {
    let both = async {
        // What cannot reach the server does not even connect to it.
        let mut requests = link.clone();
        requests.wait_for(|link| link.lets_pass(Way::Request)).await.unwrap();
        let Ok(far) = TcpStream::connect(target).await else { return };
        for socket in [&near, &far] {
            socket.set_nodelay(true).unwrap();
        }
        let ((near_read, near_write), (far_read, far_write)) =
            (near.into_split(), far.into_split());
        tokio::join!(
            carry(Way::Request, near_read, far_write, link.clone()),
            carry(Way::Answer, far_read, near_write, link.clone()),
        );
    };
    let mut cut = link.clone();
    tokio::select! {
        () = both => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
    }
}

/// Carries one direction until it ends.
async fn carry(
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
) {
    let (underway, mut arriving) = mpsc::unbounded_channel();
    let weather = link.clone();
    let read = async move {
        loop {
            let mut piece = BytesMut::with_capacity(64 << 10);
            let end = !matches!(from.read_buf(&mut piece).await, Ok(1..));
            let due = Instant::now() + weather.borrow().lateness();
            if underway.send((due, piece)).is_err() || end {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = arriving.recv().await {
            sleep_until(due).await;
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

/// An address where nothing answers, not even to refuse.
pub struct BlackHole {
    endpoint: String,
    _full: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    /// A port whose queue of connections is full: the system drops whoever asks for one more.
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
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// An address where connections are refused: no one listens on a port of so old a service.
pub const REFUSED: &str = "http://127.0.0.1:1";

/// An address with a name that does not exist (RFC 6761).
pub const UNKNOWN: &str = "http://etcd.invalid:2379";
