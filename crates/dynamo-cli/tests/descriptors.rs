//! A frontend that has few descriptors.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use process::{FRONTEND, Running, until};

/// A frontend that a shell starts after it has set limits, and its address.
fn frontend(limits: &str, arguments: &[&str]) -> (Running, String) {
    let script = format!("{limits} && exec \"$0\" \"$@\"");
    let shell = ["-c", &script, FRONTEND, "--threads", "1"];
    let local = ["--http-host", "127.0.0.1", "--http-port", "0", "--drain-grace", "0"];
    let worker = ["--worker-url", "m=http://127.0.0.1:1"];
    let arguments = [&shell[..], &local, &worker, arguments].concat();
    let frontend = Running::start("sh", &arguments, &[]);
    let address = frontend.wait_for_field("listening", " address");
    (frontend, address)
}

/// Asks on a connection that goes on.
fn ask(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

fn is_live(address: &str) -> bool {
    ask(&mut connect(address), "/live").starts_with("HTTP/1.1 200")
}

fn metric(page: &str, name: &str) -> Option<u64> {
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_soft_limit_is_raised_so_that_more_clients_are_served_than_it_allows() {
    let (frontend, address) = frontend("ulimit -S -n 64 && ulimit -H -n 512", &[]);
    let line = frontend.wait_for("limit of descriptors");
    assert!(line.contains("before=64 now=512"), "{line}");
    assert!(frontend.wait_for("listening").contains("max_connections=408"));
    let mut clients: Vec<_> = (0..100).map(|_| connect(&address)).collect();
    for client in &mut clients {
        assert!(ask(client, "/live").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn a_shortage_of_descriptors_is_counted_and_logged_once_and_ends_with_its_cause() {
    let admin = ["--admin-port", "0", "--max-connections", "1000"];
    let (frontend, address) = frontend("ulimit -n 64", &admin);
    let admin = frontend.wait_for_field("the admin port listens", "address");
    let mut operator = connect(&admin);
    let page = ask(&mut operator, "/metrics");
    assert_eq!(metric(&page, "process_max_fds"), Some(64), "{page}");
    assert_eq!(metric(&page, "dynamo_frontend_accept_errors_total"), Some(0));
    assert_eq!(metric(&page, "dynamo_frontend_connections"), Some(0));

    let clients: Vec<_> = (0..100).map(|_| connect(&address)).collect();
    let mut page = String::new();
    until("the listener has failed several times", || {
        page = ask(&mut operator, "/metrics");
        metric(&page, "dynamo_frontend_accept_errors_total") >= Some(5)
    });
    assert!(metric(&page, "dynamo_frontend_connections") > Some(10), "{page}");
    drop(clients);
    until("the listener accepts again", || is_live(&address));
    let told = frontend.logged().matches("cannot accept connections").count();
    assert_eq!(told, 1, "{}", frontend.logged());
    frontend.signal("TERM");
    assert_eq!(frontend.end().code, 0);
}

#[test]
fn the_admin_port_answers_although_clients_hold_all_connections() {
    let arguments = ["--admin-port", "0", "--max-connections", "2"];
    let (frontend, address) = frontend("true", &arguments);
    let admin = frontend.wait_for_field("the admin port listens", "address");
    let mut clients = [connect(&address), connect(&address)];
    for client in &mut clients {
        assert!(ask(client, "/live").starts_with("HTTP/1.1 200"));
    }
    let refused = ask(&mut connect(&address), "/live");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("overloaded"), "{refused}");
    let page = ask(&mut connect(&admin), "/metrics");
    assert_eq!(metric(&page, "dynamo_frontend_connections"), Some(2), "{page}");
    assert_eq!(metric(&page, "dynamo_frontend_connections_refused_total"), Some(1));
    assert!(page.contains("dynamo_frontend_build_info{version="), "{page}");
    frontend.wait_for("a connection over a limit was refused");
}
