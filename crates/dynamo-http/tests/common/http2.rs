//! A client that speaks HTTP/2.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, missing_debug_implementations, missing_docs, reason = "test code")]

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::soon;

/// One connection.
pub struct Client {
    pub sender: SendRequest<Full<Bytes>>,
    /// Ends with the connection.
    pub connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    /// Begins with the preface, without asking whether that is understood.
    pub async fn connect(address: &str) -> Self {
        let stream = soon(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, &Builder::new(TokioExecutor::new())).await
    }

    pub async fn over<IO>(stream: IO, builder: &Builder<TokioExecutor>) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, connection: tokio::spawn(connection) }
    }

    pub async fn begin(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        soon(self.sender.ready()).await?;
        soon(self.sender.send_request(request)).await
    }

    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> (StatusCode, String) {
        let response = self.begin(request).await.unwrap();
        let status = response.status();
        let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://d{path}")).body(Full::default()).unwrap()
}

pub fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://d{path}"))
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

/// Reads what comes next, to the end or the error that ends it.
pub async fn read(body: &mut Incoming) -> (String, Result<(), hyper::Error>) {
    let mut text = String::new();
    loop {
        match soon(body.frame()).await {
            None => return (text, Ok(())),
            Some(Err(error)) => return (text, Err(error)),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                text.push_str(&String::from_utf8_lossy(&data));
            }
        }
    }
}
