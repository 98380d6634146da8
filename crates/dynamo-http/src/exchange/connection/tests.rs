//! Exchanges over a socket that gives what a test has put into it.

use std::collections::VecDeque;

use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A socket: what it gives with each read, what happens then, and how much it takes.
#[derive(Default)]
struct Socket {
    gives: VecDeque<Vec<u8>>,
    /// Whether it is closed behind what it gives.
    ends: bool,
    taken: Vec<u8>,
    /// How many bytes it takes now; `None`: it fails.
    room: Option<usize>,
}

impl Socket {
    /// One that gives these pieces, one after the other, and takes everything.
    fn new(pieces: &[&[u8]], ends: bool) -> Self {
        let gives = pieces.iter().map(|piece| piece.to_vec()).collect();
        Self { gives, ends, taken: Vec::new(), room: Some(usize::MAX) }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.gives.pop_front() {
            Some(mut piece) => {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.gives.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
            None if self.ends => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(room) = self.room else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let length = room.min(buf.len());
        if length == 0 {
            return Poll::Pending;
        }
        self.taken.extend_from_slice(&buf[..length]);
        self.room = Some(room - length);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Sends a request with this body. What the socket gives is given afterwards.
fn sent(mut socket: Socket, body: &Bytes) -> Connection<Socket> {
    let gives = std::mem::take(&mut socket.gives);
    let ends = std::mem::take(&mut socket.ends);
    let mut connection = Connection::new(socket);
    let headers = HeaderMap::new();
    let request = Request {
        method: Method::POST,
        target: "/v1/a",
        headers: &headers,
        own: &[],
        body: Some(body),
    };
    connection.send(&mut cx(), &request).unwrap();
    (connection.io.gives, connection.io.ends) = (gives, ends);
    connection
}

/// One that has sent a request, and gets an answer in these pieces.
fn asked(pieces: &[&[u8]], ends: bool) -> Connection<Socket> {
    sent(Socket::new(pieces, ends), &Bytes::new())
}

/// The body of an answer, as far as it comes, and how it ends: none, if there is more to wait for.
fn body(connection: &mut Connection<Socket>) -> (Vec<u8>, Option<Result<(), Error>>) {
    let mut body = Vec::new();
    loop {
        match connection.poll_data(&mut cx()) {
            Poll::Ready(Some(Ok(data))) => body.extend_from_slice(&data),
            Poll::Ready(Some(Err(error))) => return (body, Some(Err(error))),
            Poll::Ready(None) => return (body, Some(Ok(()))),
            Poll::Pending => return (body, None),
        }
    }
}

fn status(connection: &mut Connection<Socket>) -> Poll<Result<StatusCode, Error>> {
    connection.poll_head(&mut cx()).map_ok(|head| head.status())
}

#[test]
fn an_answer_in_pieces_is_read_whole_and_the_connection_can_carry_another() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for piece in 1..=answer.len() {
        let pieces: Vec<&[u8]> = answer.chunks(piece).collect();
        let mut connection = asked(&pieces, false);
        assert!(matches!(status(&mut connection), Poll::Ready(Ok(StatusCode::OK))), "{piece}");
        assert!(!connection.is_reusable());
        let (body, end) = body(&mut connection);
        assert_eq!(body, b"abc");
        assert!(matches!(end, Some(Ok(()))) && connection.is_reusable(), "{piece}");
    }
}

#[test]
fn what_is_readable_together_comes_together_and_a_connection_that_waits_keeps_nothing() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut connection = asked(&[head, b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n"], false);
    assert!(status(&mut connection).is_ready());
    for expected in ["ab", "c"] {
        let Poll::Ready(Some(Ok(data))) = connection.poll_data(&mut cx()) else { panic!() };
        assert_eq!(data, expected);
    }
    assert!(connection.poll_data(&mut cx()).is_pending());
    assert_eq!((connection.unread.capacity(), connection.unwritten.is_none()), (0, true));
}

#[test]
fn an_informational_head_is_no_answer_and_a_switch_of_protocols_is_one() {
    let news = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
    let mut connection = asked(&[news, b"HTTP/1.1 204 No Content\r\n\r\n"], false);
    assert!(matches!(status(&mut connection), Poll::Ready(Ok(StatusCode::NO_CONTENT))));
    assert!(connection.is_reusable());
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: a\r\n\r\n";
    let mut connection = asked(&[switch], false);
    assert!(matches!(status(&mut connection), Poll::Ready(Ok(StatusCode::SWITCHING_PROTOCOLS))));
    assert!(!connection.is_reusable());
}

#[test]
fn nothing_is_sent_to_a_peer_that_has_closed_or_said_something() {
    for (pieces, ends, unasked) in
        [(&[][..], true, false), (&[&b"HTTP/1.1 408 Late\r\n\r\n"[..]], false, true)]
    {
        let mut connection = Connection::new(Socket::new(pieces, ends));
        let headers = HeaderMap::new();
        let request =
            Request { method: Method::GET, target: "/", headers: &headers, own: &[], body: None };
        let error = connection.send(&mut cx(), &request).unwrap_err();
        assert_eq!(matches!(error, Error::Unasked), unasked, "{error}");
        assert_eq!(matches!(error, Error::Ended), !unasked, "{error}");
        assert!(connection.io.taken.is_empty());
    }
}

#[test]
fn an_answer_counts_also_where_the_request_could_not_be_written() {
    let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";
    let socket = Socket { room: None, ..Socket::new(&[answer], true) };
    let mut connection = sent(socket, &Bytes::from(vec![b' '; 100_000]));
    assert!(matches!(status(&mut connection), Poll::Ready(Ok(StatusCode::PAYLOAD_TOO_LARGE))));
    assert!(matches!(body(&mut connection), (data, Some(Ok(()))) if data == b"no"));
    assert!(!connection.is_reusable());
}

#[test]
fn an_answer_that_the_end_of_a_broken_connection_ends_is_not_whole() {
    let answer = b"HTTP/1.1 413 Too Large\r\n\r\nno";
    let socket = Socket { room: None, ..Socket::new(&[answer], true) };
    let mut connection = sent(socket, &Bytes::new());
    assert!(status(&mut connection).is_ready());
    let (data, end) = body(&mut connection);
    assert_eq!(data, b"no");
    assert!(
        matches!(end, Some(Err(Error::Broke(error))) if error.kind() == io::ErrorKind::BrokenPipe)
    );
}

#[test]
fn a_request_is_written_as_far_as_it_goes_and_the_answer_is_read_meanwhile() {
    for length in [10, JOINED, JOINED + 1, 100_000] {
        let body_sent = Bytes::from(vec![b'b'; length]);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let socket = Socket { room: Some(30), ..Socket::new(&[answer], false) };
        let mut connection = sent(socket, &body_sent);
        assert!(matches!(status(&mut connection), Poll::Ready(Ok(StatusCode::OK))));
        assert!(matches!(body(&mut connection), (data, Some(Ok(()))) if data == b"ok"));
        assert!(!connection.is_reusable(), "the request is not written");
        while connection.unwritten.is_some() {
            connection.io.room = Some(7000);
            assert!(!connection.poll_data(&mut cx()).is_pending());
        }
        let head = format!("POST /v1/a HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
        assert_eq!(connection.io.taken, [head.as_bytes(), &body_sent].concat());
        assert!(connection.is_reusable());
    }
}

#[test]
fn an_answer_whose_connection_ends_early_is_lost() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
    ] {
        let mut connection = asked(&[answer.as_bytes()], true);
        let error = match status(&mut connection) {
            Poll::Ready(Ok(_)) => body(&mut connection).1.unwrap().unwrap_err(),
            Poll::Ready(Err(error)) => error,
            Poll::Pending => panic!("{answer:?}"),
        };
        assert!(matches!(error, Error::Ended) && !error.is_invalid(), "{answer:?}: {error}");
    }
}

#[test]
fn a_head_or_a_line_of_framing_without_an_end_is_given_up() {
    let piece = [b'a'; 1000];
    let head = b"HTTP/1.1 200 OK\r\na: ";
    let mut pieces = vec![&head[..]];
    pieces.extend([&piece[..]; 100]);
    let mut connection = asked(&pieces, false);
    assert!(matches!(status(&mut connection), Poll::Ready(Err(Error::TooLong { .. }))));
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;";
    pieces[0] = head;
    let mut connection = asked(&pieces, false);
    assert!(status(&mut connection).is_ready());
    assert!(
        matches!(body(&mut connection), (data, Some(Err(Error::TooLong { .. }))) if data.is_empty())
    );
}

#[test]
fn blank_lines_before_an_answer_are_not_kept() {
    let mut connection = asked(&[b"\r\n", b"\n", b"\n\r", b"\nHTTP/1.1 204 No\r\n\r\n"], false);
    assert!(matches!(status(&mut connection), Poll::Ready(Ok(StatusCode::NO_CONTENT))));
    let lines = [&b"\n"[..]; 100];
    let mut connection = asked(&lines, false);
    assert!(status(&mut connection).is_pending());
    assert_eq!(connection.unread.capacity(), 0);
}

#[test]
fn what_is_malformed_is_told_behind_the_data_before_it() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\nno\r\n";
    for piece in [1, 10, answer.len()] {
        let pieces: Vec<&[u8]> = answer.chunks(piece).collect();
        let mut connection = asked(&pieces, false);
        assert!(status(&mut connection).is_ready());
        let (data, end) = body(&mut connection);
        assert_eq!(data, b"ab", "{piece}");
        assert!(matches!(end, Some(Err(error @ Error::Chunk)) if error.is_invalid()), "{piece}");
    }
}

#[test]
fn what_follows_an_answer_is_not_taken_for_the_next() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let next = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad";
    let pieces = [&answer[..], &next[..]];
    for together in [true, false] {
        let joined = pieces.concat();
        let pieces = if together { vec![&joined[..]] } else { pieces.to_vec() };
        let mut connection = asked(&pieces, false);
        assert!(status(&mut connection).is_ready());
        assert!(matches!(body(&mut connection), (data, Some(Ok(()))) if data == b"ok"));
        assert!(!connection.is_reusable(), "{together}");
    }
}

/// What hyper's client makes of an answer: its head, and its body if that is whole.
async fn by_hyper(answer: &[u8]) -> Option<(Response<()>, Option<Vec<u8>>)> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("/v1/a").body(Empty::<Bytes>::new()).unwrap();
    let (answered, ()) = tokio::join!(sender.send_request(request), async {
        let mut read = [0; 1000];
        assert_ne!(theirs.read(&mut read).await.unwrap(), 0);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
    });
    let (parts, incoming) = answered.ok()?.into_parts();
    let body = incoming.collect().await.ok().map(|body| body.to_bytes().to_vec());
    connection.abort();
    Some((Response::from_parts(parts, ()), body))
}

/// The same of ours.
fn by_us(pieces: &[&[u8]]) -> Option<(Response<()>, Option<Vec<u8>>)> {
    let mut connection = asked(pieces, true);
    let Poll::Ready(Ok(head)) = connection.poll_head(&mut cx()) else { return None };
    let (data, end) = body(&mut connection);
    Some((head, matches!(end, Some(Ok(()))).then_some(data)))
}

/// Whether both are the same head, also where a length that was given twice stays once.
fn is_same(one: &Response<()>, other: &Response<()>) -> bool {
    let [one, other] = [one, other].map(|head| {
        let mut headers = head.headers().clone();
        if let Some(length) = head.headers().get("content-length") {
            headers.insert("content-length", length.clone());
        }
        (head.status(), headers)
    });
    one == other
}

proptest! {
    #[test]
    fn what_we_take_for_an_answer_is_one_for_hyper(
        version in "1\\.[01]",
        status in prop::sample::select(vec!["200", "204", "304", "404", "500"]),
        headers in prop::collection::vec(
            prop::sample::select(vec![
                "content-length: 3", "content-length: 0", "content-length: 12", "content-length: +3",
                "transfer-encoding: chunked", "transfer-encoding: gzip", "connection: close",
                "connection: keep-alive", "content-type: a/b", "x-a:", " folded", "x y: z", "x-b : c",
            ]),
            0..4,
        ),
        body in prop_oneof![
            "[ab3;\r\n0]{0,20}",
            "(3\r\nabc\r\n|1;a=b\r\na\r\n){0,3}0\r\n(x: y\r\n){0,2}\r\n",
        ],
        cut in 1_usize..40,
    ) {
        let mut answer = format!("HTTP/{version} {status} Some\r\n");
        for header in &headers {
            answer.push_str(header);
            answer.push_str("\r\n");
        }
        answer.push_str("\r\n");
        answer.push_str(&body);
        let pieces: Vec<&[u8]> = answer.as_bytes().chunks(cut).collect();
        let ours = by_us(&pieces);
        let whole = by_us(&[answer.as_bytes()]);
        prop_assert_eq!(
            ours.as_ref().map(|(_, body)| body), whole.as_ref().map(|(_, body)| body),
            "where it is cut does not matter",
        );
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let theirs = runtime.block_on(by_hyper(answer.as_bytes()));
        if let Some((head, body)) = ours {
            let (their_head, their_body) = theirs.expect("hyper takes it");
            prop_assert!(is_same(&head, &their_head), "{head:?} {their_head:?}");
            if body.is_some() {
                prop_assert_eq!(body, their_body);
            }
        }
    }
}
