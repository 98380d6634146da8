//! Accepting connections, or refusing them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::answers::Answers;
use super::connection::{self, Accepted};
use super::drain::Drain;
use super::options::ServeOptions;
use super::places::{Full, Places};
use crate::client_address::ClientAddress;
use crate::error::ApiError;
use crate::quiet::Quiet;
use crate::tcp;
use crate::threads::Threads;

/// How many refused connections may be open at one time, to read on until the client has its answer.
const MOST_REFUSED: usize = 64;
/// How long each of them is open, and how much is read of it.
const REFUSED_FOR: Duration = Duration::from_secs(1);
const REFUSED_BYTES: u64 = 64 << 10;

/// Accepts connections, for ever.
pub(super) async fn accept<S: Answers>(
    listener: &TcpListener,
    service: &S,
    options: &Arc<ServeOptions>,
    threads: Option<&Threads>,
    drain: &Drain,
) {
    let mut places = Places::new(options);
    let refusals = Refusals::new(options);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                failed(&error, options).await;
                continue;
            }
        };
        let place = match places.take(from.ip(), drain.connections()) {
            Ok(place) => place,
            Err(full) => {
                refusals.refuse(stream, full, options);
                continue;
            }
        };
        let prepared = tcp::prepare(&stream).and_then(|()| match options.ack_timeout {
            Some(within) => tcp::expect_acks(&stream, within),
            None => Ok(()),
        });
        if let Err(error) = prepared {
            // The client has closed it already, which reading from it will tell.
            debug!(%error, "a connection ended before it began");
        }
        let accepted = Accepted {
            service: service.clone(),
            client: options.client_addresses.then(|| ClientAddress(from.ip().to_canonical())),
            options: options.clone(),
            drain: drain.watch(),
            place,
            counted: options.connections.begin(),
        };
        match threads {
            Some(threads) => {
                // Its readiness is told to the thread that serves it.
                let stream = stream.into_std();
                threads.spawn(connection::serve(async move {
                    match stream.and_then(TcpStream::from_std) {
                        Ok(stream) => accepted.open(stream).await,
                        Err(error) => {
                            warn!(%error, "cannot serve a connection");
                            None
                        }
                    }
                }));
            }
            None => {
                tokio::spawn(connection::serve(accepted.open(stream)));
            }
        }
    }
}

/// Says that no connection could be accepted, and waits if that would happen again at once.
async fn failed(error: &io::Error, options: &ServeOptions) {
    static LINE: Quiet = Quiet::new();

    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if of_one_connection {
        return;
    }
    // An error of our own, such as too many open files.
    options.connections.count_accept_error();
    if let Some(left_out) = LINE.may_write() {
        warn!(%error, left_out, "cannot accept connections");
    }
    sleep(Duration::from_millis(100)).await;
}

/// Tells clients that there are too many connections.
struct Refusals {
    /// The whole answer; none where clients expect TLS, since a handshake costs more than a refusal
    /// may.
    answer: Option<Arc<[u8]>>,
    places: Arc<Semaphore>,
}

impl Refusals {
    fn new(options: &ServeOptions) -> Self {
        #[cfg(feature = "tls")]
        let plain = options.tls.is_none();
        #[cfg(not(feature = "tls"))]
        let plain = {
            let _ = options;
            true
        };
        Self {
            answer: plain.then(|| answer().into()),
            places: Arc::new(Semaphore::new(MOST_REFUSED)),
        }
    }

    fn refuse(&self, stream: TcpStream, full: Full, options: &ServeOptions) {
        static LINE: Quiet = Quiet::new();

        options.connections.count_refused();
        if let Some(left_out) = LINE.may_write() {
            let limit = match full {
                Full::Listener => "all connections",
                Full::Address => "the connections of one address",
            };
            warn!(limit, left_out, "a connection over a limit was refused");
        }
        let Some(answer) = &self.answer else { return };
        // Without a place the connection is closed at once.
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            tokio::spawn(tell(stream, answer.clone(), place));
        }
    }
}

/// Answers before the request has come, and reads on so that a reset does not take the answer away.
async fn tell(mut stream: TcpStream, answer: Arc<[u8]>, _place: OwnedSemaphorePermit) {
    let told = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REFUSED_BYTES), &mut tokio::io::sink()).await
    };
    if !matches!(timeout(REFUSED_FOR, told).await, Ok(Ok(_))) {
        debug!("a refused connection was closed before its client did so");
    }
}

/// The answer to whatever a refused connection asks.
fn answer() -> Vec<u8> {
    let body = ApiError::too_many_connections().to_json().to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
