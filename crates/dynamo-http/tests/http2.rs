//! HTTP/2 on the listener, by prior knowledge: what holds over HTTP/1 holds here as well.

mod common;
#[path = "common/http2.rs"]
mod http2;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Act, Door, STREAM_HEAD, Worker, chat, chunk, send, soon, stream_until, whole};
use dynamo_http::{FrontendConfig, ServeOptions};
use http_body_util::BodyExt as _;
use http2::{Client, get, post, read};
use hyper::client::conn::http2::Builder;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn door(worker: &Worker, options: ServeOptions) -> Door {
    let config = FrontendConfig::new().with_body_limit(1 << 20);
    let mut door = Door::with("a", &config, options).await;
    door.writer.stage_ready();
    door.add(&worker.instance("a", "m"));
    door
}

#[tokio::test]
async fn many_requests_share_a_connection_and_a_stream_flows_while_others_are_answered() {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([stream_until(&go_on), whole("{}")]).await;
    let door = door(&worker, ServeOptions::default()).await;
    let mut client = Client::connect(&door.address).await;

    let mut response = client.begin(post(CHAT, &chat("m"))).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(response.headers().contains_key("x-request-id"));
    let first = soon(response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: 1\n\n");

    assert_eq!(client.ask(post(CHAT, &chat("m"))).await, (200.try_into().unwrap(), "{}".into()));
    assert_eq!(client.ask(get("/v1/models/m")).await.0, 200);
    go_on.notify_one();
    let (rest, ended) = read(response.body_mut()).await;
    assert!(ended.is_ok() && rest == "data: [DONE]\n\n", "{rest}");
}

#[tokio::test]
async fn what_reaches_the_worker_is_http_1_with_its_own_host_and_one_length() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker, ServeOptions::default()).await;
    let mut request = post(CHAT, &chat("m"));
    for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-own", "1")]
    {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    assert_eq!(Client::connect(&door.address).await.ask(request).await.0, 200);
    let seen = worker.requests.lock().unwrap()[0].clone();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, chat("m"));
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    let has = |line: &str| head.lines().filter(|l| l.eq_ignore_ascii_case(line)).count() == 1;
    assert!(has(&format!("host: {}", worker.url.strip_prefix("http://").unwrap())), "{head}");
    assert!(has(&format!("content-length: {}", body.len())), "{head}");
    assert!(has("cookie: a=1; b=2") && has("x-own: 1") && !head.contains("trailers"), "{head}");
}

#[tokio::test]
async fn errors_have_the_same_shape_as_over_http_1() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker, ServeOptions::default()).await;
    let mut client = Client::connect(&door.address).await;
    let code = |body: &str| -> String {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    };
    for (request, status, expected) in [
        (get("/nothing"), 404, "not_found"),
        (get(CHAT), 405, "method_not_allowed"),
        (post("/v1/embeddings", "{}"), 503, "endpoint_disabled"),
        (post(CHAT, "{"), 400, ""),
        (post(CHAT, &chat("n")), 404, "model_not_found"),
        (post(CHAT, &"x".repeat(2 << 20)), 413, ""),
    ] {
        let path = request.uri().clone();
        let (answered, body) = client.ask(request).await;
        assert_eq!((answered.as_u16(), code(&body).as_str()), (status, expected), "{path}: {body}");
    }
    assert_eq!(worker.asked(), 0);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker, ServeOptions::default()).await;
    let mut client = Client::connect(&door.address).await;
    for (path, status) in [(CHAT, 405), ("/nothing", 404), ("/v1/models/m", 200)] {
        let mut request = get(path);
        *request.method_mut() = http::Method::HEAD;
        let mut response = client.begin(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert!(response.headers()["content-length"].to_str().unwrap() != "0", "{path}");
        assert_eq!(read(response.body_mut()).await.0, "", "{path}");
    }
}

#[tokio::test]
async fn heads_over_the_limits_are_refused_and_the_connection_goes_on() {
    let worker = Worker::start([whole("{}")]).await;
    let options = ServeOptions::new().with_max_header_bytes(16 << 10);
    let door = door(&worker, options).await;
    let mut client = Client::connect(&door.address).await;
    let with = |name: String, value: String| {
        let mut request = get("/live");
        request.headers_mut().insert(
            http::HeaderName::try_from(name).unwrap(),
            http::HeaderValue::try_from(value).unwrap(),
        );
        request
    };
    let mut many = get("/live");
    for n in 0..150 {
        let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
        many.headers_mut().insert(name, http::HeaderValue::from_static("y"));
    }
    assert_eq!(client.ask(many).await.0, 431);
    assert_eq!(client.ask(with("x".into(), "y".repeat(15 << 10))).await.0, 200);
    let mut other = Client::connect(&door.address).await;
    // The client may know the limit and not even send it.
    if let Ok(response) = other.begin(with("x".into(), "y".repeat(20 << 10))).await {
        assert_eq!(response.status(), 431);
    }
    assert_eq!(client.ask(get("/live")).await.0, 200);
}

#[tokio::test]
async fn a_client_that_resets_a_stream_cancels_the_request_at_the_worker() {
    for script in [
        vec![send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))), Act::AwaitPeer],
        vec![Act::AwaitPeer],
    ] {
        let worker = Worker::start([script]).await;
        let door = door(&worker, ServeOptions::default()).await;
        let mut client = Client::connect(&door.address).await;
        soon(client.sender.ready()).await.unwrap();
        let answer = tokio::spawn(client.sender.send_request(post(CHAT, &chat("m"))));
        worker.until_asked().await;
        let left = Instant::now();
        answer.abort();
        if let Ok(response) = answer.await {
            drop(response);
        }
        soon(worker.closed.notified()).await;
        println!("cancelled after {:?}", left.elapsed());
        assert_eq!(client.ask(get("/live")).await.0, 200, "the connection goes on");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_is_told_and_reset_and_the_connection_goes_on() {
    for end in [Act::Close, Act::Reset] {
        let head = send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n")));
        let worker = Worker::start([vec![head, end]]).await;
        let door = door(&worker, ServeOptions::default()).await;
        let mut client = Client::connect(&door.address).await;
        let mut response = client.begin(post(CHAT, &chat("m"))).await.unwrap();
        let (text, ended) = read(response.body_mut()).await;
        assert!(text.starts_with("data: 1\n\ndata: {\"error\":{"), "{text}");
        assert!(!text.contains("[DONE]"));
        assert!(ended.is_err(), "a reset, not an end: {text}");
        assert_eq!(client.ask(get("/live")).await.0, 200);
    }
    // A body with a length that is short, and one in which no event can be put.
    for head in ["content-length: 50", "transfer-encoding: chunked\r\ncontent-encoding: gzip"] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\n12345\r\n");
        let worker = Worker::start([vec![send(head), Act::Close]]).await;
        let door = door(&worker, ServeOptions::default()).await;
        let mut client = Client::connect(&door.address).await;
        let mut response = client.begin(post(CHAT, &chat("m"))).await.unwrap();
        let (text, ended) = read(response.body_mut()).await;
        assert!(ended.is_err() && !text.contains("error"), "{text}");
    }
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_sends_clients_away() {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([stream_until(&go_on)]).await;
    let options = ServeOptions::new().with_drain_grace(Duration::ZERO);
    let mut door = door(&worker, options).await;
    let mut client = Client::connect(&door.address).await;
    let mut response = client.begin(post(CHAT, &chat("m"))).await.unwrap();
    worker.until_asked().await;
    let idle = Client::connect(&door.address).await;

    door.shut_down();
    assert!(soon(idle.connection).await.unwrap().is_ok(), "an idle connection is closed in order");
    // The notice to go away is on its way: at some point nothing more is taken.
    soon(async { while client.sender.send_request(get("/live")).await.is_ok() {} }).await;
    go_on.notify_one();
    let (text, ended) = read(response.body_mut()).await;
    assert!(ended.is_ok() && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(soon(&mut door.served).await.unwrap(), "everything ended in time");
}

#[tokio::test]
async fn a_connection_carries_so_many_requests_at_a_time_and_no_more() {
    let worker = Worker::start([vec![Act::AwaitPeer]]).await;
    let options = ServeOptions::new().with_max_streams(2);
    let door = door(&worker, options).await;
    let mut client = Client::connect(&door.address).await;
    // The limit has come with the first answer.
    assert_eq!(client.ask(get("/live")).await.0, 200);
    let begin =
        |client: &mut Client| tokio::spawn(client.sender.send_request(post(CHAT, &chat("m"))));
    let first = begin(&mut client);
    let _second = begin(&mut client);
    let third = begin(&mut client);
    soon(async {
        while worker.asked() < 2 {
            tokio::task::yield_now().await
        }
    })
    .await;
    // Others are answered meanwhile, and the third does not get through.
    assert_eq!(door.get("/live").await.status(), 200);
    assert_eq!(worker.asked(), 2);
    first.abort();
    soon(async {
        while worker.asked() < 3 {
            tokio::task::yield_now().await
        }
    })
    .await;
    third.abort();
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_client_that_opens_and_resets_streams_all_the_time_is_sent_away() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker, ServeOptions::default()).await;
    let mut stream = TcpStream::connect(&door.address).await.unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for n in 0..500 {
        // GET, http, / from the static table; then a reset by the client.
        bytes.extend(frame(1, 0b101, 2 * n + 1, &[0x82, 0x86, 0x84]));
        bytes.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
    }
    // It may be cut while it still sends.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    // GOAWAY with ENHANCE_YOUR_CALM (RFC 9113, section 7), unless a reset of the connection took it.
    let calm = answer.windows(4).any(|code| code == 11_u32.to_be_bytes());
    assert!(calm || answer.is_empty(), "{answer:?}");
    assert_eq!(door.get("/live").await.status(), 200, "others do not notice");
}

#[tokio::test]
async fn a_preface_that_comes_in_pieces_is_one_and_a_lone_p_is_none() {
    let worker = Worker::start([whole("{}")]).await;
    let options = ServeOptions::new().with_header_timeout(Duration::from_secs(2));
    let door = door(&worker, options).await;
    let mut stream = door.begin("P").await;
    stream.set_nodelay(true).unwrap();
    for byte in &PREFACE[1..] {
        tokio::task::yield_now().await;
        stream.write_all(&[*byte]).await.unwrap();
    }
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "settings");

    let request = common::post(CHAT, &chat("m"));
    let mut stream = door.begin("P").await;
    stream.write_all(&request.as_bytes()[1..]).await.unwrap();
    assert_eq!(soon(common::Answer::read(stream)).await.status(), 200);
    // Nothing more after it: closed by the deadline of heads.
    assert_eq!(soon(common::Answer::read(door.begin("P").await)).await.raw, "");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end_and_one_with_a_stream_is_not() {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([stream_until(&go_on)]).await;
    let mut options = ServeOptions::default();
    // Long enough for a head on any machine; the clock looks four times in it.
    options = options.with_header_timeout(Duration::from_secs(1));
    options = options.with_keep_alive_timeout(Duration::from_millis(300));
    let door = door(&worker, options).await;
    let mut busy = Client::connect(&door.address).await;
    let mut response = busy.begin(post(CHAT, &chat("m"))).await.unwrap();
    let idle = Client::connect(&door.address).await;
    let _ = soon(idle.connection).await.unwrap();
    go_on.notify_one();
    let (text, ended) = read(response.body_mut()).await;
    assert!(ended.is_ok() && text.ends_with("[DONE]\n\n"), "{text}");
    let _ = soon(busy.connection).await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_closed() {
    let large = "x".repeat(4 << 20);
    let worker = Worker::start([vec![
        send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{large}", large.len())),
        Act::AwaitPeer,
    ]])
    .await;
    let mut options = ServeOptions::default();
    // Long enough for a head on any machine; the clock looks four times in it.
    options = options.with_header_timeout(Duration::from_secs(1));
    options = options.with_write_stall_timeout(Duration::from_millis(300));
    let door = door(&worker, options).await;
    let stream = TcpStream::connect(&door.address).await.unwrap();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 10);
    let mut client = Client::over(stream, &builder).await;
    let _unread = client.begin(post(CHAT, &chat("m"))).await.unwrap();
    let _ = soon(client.connection).await.unwrap();
    soon(worker.closed.notified()).await;
}
