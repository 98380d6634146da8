//! Reads HTTP/1.1 messages from a byte stream: the part of HTTP/1.1 that the bench needs.

use anyhow::{Context, Result, bail, ensure};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// One connection's buffer: the bytes that were read and not yet consumed.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    consumed: usize,
}

/// The head of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// `POST /v1/models HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) first_line: String,
    pub(crate) body: Framing,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
}

impl Reader {
    /// The next head; `None` if the peer closed the connection.
    pub(crate) async fn head(&mut self, stream: &mut TcpStream) -> Result<Option<Head>> {
        loop {
            let unread = &self.buffer[self.consumed..];
            if let Some(end) = find(unread, b"\r\n\r\n") {
                let head = parse_head(&unread[..end])?;
                self.consumed += end + 4;
                return Ok(Some(head));
            }
            if !self.fill(stream).await? {
                ensure!(self.consumed == self.buffer.len(), "cut within a head");
                return Ok(None);
            }
        }
    }

    /// Reads a body to its end and hands over its pieces, without the chunks' frames.
    pub(crate) async fn body(
        &mut self,
        stream: &mut TcpStream,
        framing: Framing,
        mut piece: impl FnMut(&[u8]),
    ) -> Result<()> {
        match framing {
            Framing::Length(length) => self.take(stream, length, &mut piece).await,
            Framing::Chunked => loop {
                let size = self.line(stream).await?;
                let size = size.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size.trim(), 16)
                    .with_context(|| format!("{size:?} is no chunk size"))?;
                self.take(stream, size, &mut piece).await?;
                // The empty line after the last chunk ends the (empty) trailers.
                ensure!(self.line(stream).await?.is_empty(), "a chunk is longer than it says");
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }

    async fn take(
        &mut self,
        stream: &mut TcpStream,
        mut length: usize,
        piece: &mut impl FnMut(&[u8]),
    ) -> Result<()> {
        while length > 0 {
            let unread = &self.buffer[self.consumed..];
            if unread.is_empty() {
                ensure!(self.fill(stream).await?, "cut within a body");
                continue;
            }
            let here = unread.len().min(length);
            piece(&unread[..here]);
            self.consumed += here;
            length -= here;
        }
        Ok(())
    }

    async fn line(&mut self, stream: &mut TcpStream) -> Result<String> {
        loop {
            let unread = &self.buffer[self.consumed..];
            if let Some(end) = find(unread, b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.consumed += end + 2;
                return Ok(line);
            }
            ensure!(self.fill(stream).await?, "cut within a chunked body");
        }
    }

    /// Reads more; `false` at the end of the stream.
    async fn fill(&mut self, stream: &mut TcpStream) -> Result<bool> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.reserve(16 * 1024);
        Ok(stream.read_buf(&mut self.buffer).await? > 0)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(bytes: &[u8]) -> Result<Head> {
    let text = std::str::from_utf8(bytes).context("a head is not UTF-8")?;
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or_default().to_owned();
    let mut body = Framing::Length(0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { bail!("{line:?} is no header") };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body = Framing::Length(value.parse().with_context(|| format!("{line:?}"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            ensure!(value.eq_ignore_ascii_case("chunked"), "{line:?} is not understood");
            body = Framing::Chunked;
        }
    }
    Ok(Head { first_line, body })
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[test]
    fn a_head_tells_how_its_body_ends() {
        let length = b"POST / HTTP/1.1\r\nhost: a:1\r\nContent-Length: 12";
        let expected = Head { first_line: "POST / HTTP/1.1".into(), body: Framing::Length(12) };
        assert_eq!(parse_head(length).unwrap(), expected);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked";
        assert_eq!(parse_head(chunked).unwrap().body, Framing::Chunked);
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nnonsense").is_err());
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let message = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                        3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut sender = TcpStream::connect(address).await.unwrap();
            let (mut receiver, _) = listener.accept().await.unwrap();
            let write = async {
                for byte in [&message[..], &message[..]].concat() {
                    sender.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(sender);
            };
            let read = async {
                let mut reader = Reader::default();
                for _ in 0..2 {
                    let head = reader.head(&mut receiver).await.unwrap().unwrap();
                    let mut body = Vec::new();
                    let keep = |piece: &[u8]| body.extend_from_slice(piece);
                    reader.body(&mut receiver, head.body, keep).await.unwrap();
                    assert_eq!(body, b"abc0123456789");
                }
                assert_eq!(reader.head(&mut receiver).await.unwrap(), None);
            };
            // One task has both ends.
            let mut write = Box::pin(write);
            let mut read = Box::pin(read);
            let mut written = false;
            std::future::poll_fn(|context| {
                use std::future::Future as _;
                written = written || write.as_mut().poll(context).is_ready();
                read.as_mut().poll(context)
            })
            .await;
        });
    }
}
