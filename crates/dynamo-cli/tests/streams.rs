//! What a frontend takes for streams that are open and quiet.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use process::{FRONTEND, Running};

/// Reads a message whose head may tell a length, and returns its first line.
fn message(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end().to_ascii_lowercase().strip_prefix("content-length: ") {
            Some(told) => length = told.parse().unwrap(),
            None if line == "\r\n" => break,
            None => {}
        }
    }
    stream.read_exact(&mut vec![0; length]).unwrap();
    Some(first)
}

/// A worker that begins each stream and goes no further; its address.
fn quiet_worker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            if message(&mut stream).is_some_and(|line| line.starts_with("POST")) {
                let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                     transfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n",
                    event.len()
                );
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                open.push(stream);
            }
        }
    });
    address
}

/// Opens a stream and waits for its first event.
fn open(address: &str) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    let body = r#"{"model":"m","messages":[],"stream":true}"#;
    write!(
        stream.get_mut(),
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: of-the-client\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
    }
    stream
}

/// The memory of a process that it shares with nobody, in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_open_stream_takes_less_than_24_kibibytes() {
    let worker = format!("m=http://{}", quiet_worker());
    let arguments = ["--http-host", "127.0.0.1", "--http-port", "0", "--threads", "1"];
    let arguments = [&arguments[..], &["--worker-url", &worker]].concat();
    // A kernel that gives huge pages to everybody has to be told, as the files in `deploy/` do.
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let to_everybody = huge.is_ok_and(|modes| modes.contains("[always]"));
    let environment: &[_] = if to_everybody { &[("MIMALLOC_ALLOW_THP", "0")] } else { &[] };
    let frontend = Running::start(FRONTEND, &arguments, environment);
    let address = frontend.wait_for_field("listening", " address");
    // The first streams take what all share.
    let _first: Vec<_> = (0..50).map(|_| open(&address)).collect();
    let before = memory(frontend.id());
    let streams: Vec<_> = (0..400).map(|_| open(&address)).collect();
    let each = memory(frontend.id()).saturating_sub(before) / streams.len() as u64;
    assert!((1..24).contains(&each), "{each} KiB");
}
