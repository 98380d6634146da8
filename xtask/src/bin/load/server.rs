//! The mock server: fixed answers, prepared once.

use std::{net::SocketAddr, rc::Rc};

use anyhow::Result;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::message::Reader;

/// How many tokens a stream has before its end marker.
pub(crate) const TOKENS: usize = 64;

/// What an engine answers to a short chat, 259 bytes.
const CHAT: &str = r#"{"id":"chatcmpl-0123456789ab","object":"chat.completion","created":1790000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}"#;

const CHUNK: &str = r#"{"id":"chatcmpl-0123456789abcdef0123","object":"chat.completion.chunk","created":1790000000,"model":"bench","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}"#;

const MODELS: &str = r#"{"object":"list","data":[{"id":"bench","object":"model","created":1790000000,"owned_by":"bench"}]}"#;

struct Answers {
    chat: Vec<u8>,
    stream: Vec<u8>,
    models: Vec<u8>,
}

pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let answers = Rc::new(Answers { chat: json(CHAT), stream: burst(), models: json(MODELS) });
    LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                let answers = Rc::clone(&answers);
                tokio::task::spawn_local(async move {
                    // A proxy that goes away is no error of ours.
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
        let answer = if head.first_line.starts_with("GET ") {
            &answers.models
        } else if body.ends_with(br#""stream":true}"#) {
            &answers.stream
        } else {
            &answers.chat
        };
        stream.write_all(answer).await?;
    }
    Ok(())
}

fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// A whole stream at once, each event in a chunk of its own: what an engine sends that is faster
/// than its reader.
fn burst() -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for event in std::iter::repeat_n(CHUNK, TOKENS).chain(["[DONE]"]) {
        let event = format!("data: {event}\n\n");
        bytes.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// How long the body of a stream is without the chunks' frames.
pub(crate) fn stream_length() -> usize {
    let event = |text: &str| "data: \n\n".len() + text.len();
    TOKENS * event(CHUNK) + event("[DONE]")
}

/// How long the body of a plain answer is.
pub(crate) fn chat_length() -> usize {
    CHAT.len()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_is_as_long_as_the_one_that_earlier_figures_were_taken_with() {
        assert_eq!(super::CHAT.len(), 259);
    }
}
