//! The mock server: fixed answers, prepared once.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use anyhow::Result;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::{kind::Kind, message::Reader};

const MODELS: &str = r#"{"object":"list","data":[{"id":"bench","object":"model","created":1790000000,"owned_by":"bench"}]}"#;

struct Answers {
    chat: Vec<u8>,
    burst: Vec<u8>,
    /// The pieces of each answer that comes at a pace. Each piece is one write.
    paced: Vec<Vec<u8>>,
    open: Vec<Vec<u8>>,
    models: Vec<u8>,
}

pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    // Else it keeps 128 connections, and a case with more would measure how SYNs are sent again.
    rustix::net::listen(&listener, 4096)?;
    let answers = Rc::new(Answers {
        chat: json(&Kind::Chat.answer().concat()),
        burst: stream(Kind::Burst).concat(),
        paced: stream(Kind::Paced),
        open: stream(Kind::Open),
        models: json(MODELS),
    });
    LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                let answers = Rc::clone(&answers);
                tokio::task::spawn_local(async move {
                    // A proxy may close its connections, so that is no error.
                    let _ = converse(stream, &answers).await;
                });
            }
        })
        .await
}

async fn converse(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::default();
    let mut body = Vec::new();
    while let Some(head) = reader.head(&mut stream).await? {
        body.clear();
        reader.body(&mut stream, head.body, |piece| body.extend_from_slice(piece)).await?;
        if head.first_line.starts_with("GET ") {
            stream.write_all(&answers.models).await?;
            continue;
        }
        let kind = Kind::of(&body);
        match kind {
            Kind::Chat | Kind::Long => stream.write_all(&answers.chat).await?,
            Kind::Burst => stream.write_all(&answers.burst).await?,
            Kind::Paced => pace(&mut stream, &answers.paced, kind.pace()).await?,
            Kind::Open => pace(&mut stream, &answers.open, kind.pace()).await?,
        }
    }
    Ok(())
}

async fn pace(stream: &mut TcpStream, pieces: &[Vec<u8>], pace: Duration) -> Result<()> {
    for (place, piece) in pieces.iter().enumerate() {
        if place > 0 {
            tokio::time::sleep(pace).await;
        }
        stream.write_all(piece).await?;
    }
    Ok(())
}

fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The writes of a stream: one for each token, each event in a chunk of its own.
fn stream(kind: Kind) -> Vec<Vec<u8>> {
    let chunk = |event: &String| format!("{:x}\r\n{event}\r\n", event.len());
    let mut pieces: Vec<_> = kind.answer().iter().map(chunk).collect();
    pieces[0].insert_str(
        0,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
         transfer-encoding: chunked\r\n\r\n",
    );
    // The end marker and the last chunk follow the last token at once.
    let end = pieces.split_off(kind.tokens()).concat() + "0\r\n\r\n";
    pieces[kind.tokens() - 1] += &end;
    pieces.into_iter().map(String::into_bytes).collect()
}
