//! How a frontend listens, and how it stops: TLS, and the drain that load balancers see.

#![allow(clippy::unwrap_used, reason = "test code")]

mod process;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use dynamo_http::WorkerTls;
use process::{FRONTEND, Running, WORKER, until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A frontend with one static worker, and its address.
fn frontend(worker: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (Running, String) {
    let worker = format!("m={worker}");
    let local = ["--http-host", "127.0.0.1", "--http-port", "0", "--worker-url", &worker];
    let frontend = Running::start(FRONTEND, &[&local, arguments].concat(), environment);
    let address = frontend.wait_for_field("listening", "address");
    (frontend, address)
}

fn echo(delay: &str) -> (Running, String) {
    let arguments = ["--echo", "--model", "m", "--echo-delay-ms", delay];
    let none = ["--etcd-endpoints", "http://127.0.0.1:1"];
    let worker = Running::start(WORKER, &[&arguments[..], &none].concat(), &[]);
    let url = worker.wait_for_field("following the engine", "url");
    (worker, url)
}

fn status(address: &str, path: &str) -> u16 {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    agent.get(format!("http://{address}{path}")).call().map_or(0, |answer| answer.status().into())
}

fn stream(address: &str, words: &str) -> BufReader<impl std::io::Read> {
    let body = json!({"model": "m", "stream": true,
                      "messages": [{"role": "user", "content": words}]});
    let answer = ureq::post(format!("http://{address}/v1/chat/completions")).send_json(body);
    BufReader::new(answer.unwrap().into_body().into_reader())
}

fn connects(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
}

#[test]
fn a_drain_says_so_first_then_takes_no_one_new_and_lets_streams_end() {
    // The stream takes longer than the grace, and the grace longer than what is asked in it.
    let (_worker, url) = echo("300");
    let (frontend, address) = frontend(&url, &["--drain-grace", "4"], &[]);
    until("the frontend is ready", || status(&address, "/ready") == 200);
    let words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen \
                 fifteen sixteen seventeen eighteen nineteen twenty";
    let mut stream = stream(&address, words);
    let mut begin = String::new();
    stream.read_line(&mut begin).unwrap();
    assert!(begin.starts_with("data: "));

    frontend.signal("TERM");
    frontend.wait_for("leaving");
    // Whoever has not noticed yet is served as before.
    assert_eq!(status(&address, "/ready"), 503);
    assert_eq!(status(&address, "/v1/models"), 200);
    frontend.wait_for("draining");
    until("no one new is taken", || !connects(&address));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("twenty") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    let ended = frontend.end();
    assert!(ended.code == 0 && ended.stderr.contains("stopped"), "{ended:?}");
}

#[test]
fn a_stream_that_outlasts_the_drain_is_cut_at_its_end() {
    let (_worker, url) = echo("60000");
    let arguments = ["--drain-grace", "0.5", "--drain-timeout", "0.5"];
    let (frontend, address) = frontend(&url, &arguments, &[]);
    until("the frontend is ready", || status(&address, "/ready") == 200);
    let mut stream = stream(&address, "one");
    let began = Instant::now();
    frontend.signal("TERM");
    let ended = frontend.end();
    assert!(began.elapsed() >= Duration::from_secs(1), "grace and drain: {:?}", began.elapsed());
    assert!(ended.code == 0 && ended.stderr.contains("were cut"), "{ended:?}");
    let mut rest = String::new();
    assert!(stream.read_to_string(&mut rest).is_err(), "a cut, not an end: {rest}");
}

/// Writes a new authority, and a certificate for this machine that it signed.
fn issue(dir: &Path) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".into()]).unwrap();
    fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
    fs::write(dir.join("tls.crt"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
}

/// The answer to `GET /live` over TLS, trusting what is in `ca`; empty without trust.
fn live_over_tls(address: &str, ca: &Path) -> String {
    let tls = WorkerTls::with_authorities(ca).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let Ok(mut stream) = tls.connect("127.0.0.1", stream).await else { return String::new() };
        let request = b"GET /live HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        // A client without a certificate learns only here that it is refused.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    })
}

#[test]
fn certificates_are_renewed_without_a_restart_and_bad_ones_are_told_once() {
    let dir = tempfile::Builder::new().prefix("dynamo-cli-tls-").tempdir().unwrap();
    issue(dir.path());
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let variables = [
        ("DYN_TLS_CERT_PATH", certificate.to_str().unwrap()),
        ("DYN_TLS_KEY_PATH", key.to_str().unwrap()),
    ];
    let arguments = ["--drain-grace", "0"];
    let (frontend, address) = frontend("http://127.0.0.1:1", &arguments, &variables);
    assert!(frontend.wait_for("listening").contains("tls=true"));
    let first = dir.path().join("first.pem");
    fs::copy(dir.path().join("ca.pem"), &first).unwrap();
    assert!(live_over_tls(&address, &first).starts_with("HTTP/1.1 200"));

    fs::write(&certificate, "half of a cert").unwrap();
    let warned = frontend.wait_for("those before stay");
    assert!(warned.contains("tls.crt"), "{warned}");
    assert!(live_over_tls(&address, &first).starts_with("HTTP/1.1 200"));
    issue(dir.path());
    frontend.wait_for("certificates read again files");
    assert_eq!(live_over_tls(&address, &first), "");
    assert!(live_over_tls(&address, &dir.path().join("ca.pem")).starts_with("HTTP/1.1 200"));
    frontend.signal("TERM");
    let ended = frontend.end();
    // A look may also have fallen between the two files of the second pair.
    let told =
        ended.stderr.matches("half").count() + ended.stderr.matches("those before stay").count();
    assert!(ended.code == 0 && told <= 2, "{ended:?}");
    assert!(!ended.stderr.contains("PRIVATE KEY"));
}

#[test]
fn where_clients_need_certificates_the_main_port_refuses_others_and_the_admin_port_answers_probes()
{
    let dir = tempfile::Builder::new().prefix("dynamo-cli-tls-").tempdir().unwrap();
    issue(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, ca) = (path("tls.crt"), path("tls.key"), path("ca.pem"));
    let tls = ["--tls-cert-path", &certificate, "--tls-key-path", &key];
    let variable = [("DYN_TLS_CLIENT_CA_CERT_PATH", ca.as_str())];
    let rest = ["--admin-port", "0", "--drain-grace", "0"];
    let (running, address) = frontend("http://127.0.0.1:1", &[&tls[..], &rest].concat(), &variable);
    let admin = running.wait_for_field("the admin port listens", "address");
    assert_eq!(live_over_tls(&address, Path::new(&ca)), "");
    assert!(live_over_tls(&admin, Path::new(&ca)).starts_with("HTTP/1.1 200"));
    drop(running);

    let optional = [&tls[..], &rest, &["--tls-client-auth", "optional"]].concat();
    let (_running, address) = frontend("http://127.0.0.1:1", &optional, &variable);
    assert!(live_over_tls(&address, Path::new(&ca)).starts_with("HTTP/1.1 200"));
}
