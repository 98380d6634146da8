//! The programs as their users run them: real processes, a clean environment, no store.

mod process;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;

use process::{FRONTEND, Running, WORKER, WORKER_CONFIG, finish, is_running, until};
use serde_json::{Value, json};

/// An address that nobody answers, so that what needs a store goes on without it.
const NO_ETCD: [&str; 2] = ["--etcd-endpoints", "http://127.0.0.1:1"];
/// A frontend that drains without a grace.
const AT_ONCE: [&str; 2] = ["--drain-grace", "0"];

#[test]
fn help_mentions_the_variables() {
    for (program, variables) in [
        (FRONTEND, &["DYN_NAMESPACE", "DYN_NAMESPACE_PREFIX", "ETCD_ENDPOINTS", "DYN_LOG"][..]),
        (WORKER, &["DYN_NAMESPACE", "DYN_NAMESPACE_WORKER_SUFFIX", "ETCD_LEASE_TTL"]),
        (WORKER_CONFIG, &["DYN_NAMESPACE", "DYN_LOGGING_JSONL"]),
    ] {
        let ended = finish(program, &["--help"], &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        for variable in variables {
            assert!(ended.stdout.contains(variable), "{variable}");
        }
        let short = finish(program, &["-V"], &[]).stdout;
        assert!(short.ends_with(concat!(env!("CARGO_PKG_VERSION"), "\n")));
        let version = finish(program, &["--version"], &[]).stdout;
        let build = version.strip_prefix(short.trim_end()).unwrap_or_default();
        assert!(build.starts_with(" (commit ") && build.ends_with("TLS by rustls with ring)\n"));
    }
    let help = finish(FRONTEND, &["--help"], &[]).stdout;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("The variable is the fallback; without either, and with `global`"));
}

#[test]
fn wrong_usage_is_one_line_and_exit_2() {
    let certificate = [("ETCD_AUTH_CLIENT_CERT", "/cert.pem")];
    let memory = [("DYN_DISCOVERY_BACKEND", "memory")];
    for (program, arguments, environment, part) in [
        (FRONTEND, &["--nope"][..], &[][..], "unexpected argument '--nope' found"),
        (WORKER, &["--nope"], &[], "unexpected argument '--nope' found"),
        (WORKER_CONFIG, &["--nope"], &[], "unexpected argument '--nope' found"),
        (WORKER_CONFIG, &["--endpoint", "dyn://a.b.c"], &[], "there is no --endpoint: "),
        (WORKER_CONFIG, &["--endpoint"], &[], "there is no --endpoint: "),
        (WORKER_CONFIG, &["--endpoint=x"], &[], "--is-prefill-worker"),
        (WORKER, &["--endpoint", "x", "--echo"], &[], "DYN_NAMESPACE"),
        (FRONTEND, &["--namespace", "a b"], &[], "--namespace: invalid namespace \"a b\""),
        (FRONTEND, &[], &[("DYN_NAMESPACE", "a/b")], "DYN_NAMESPACE: invalid namespace \"a/b\""),
        (WORKER, &["--echo", "--namespace", "ä"], &[], "invalid namespace"),
        (WORKER_CONFIG, &["--namespace", "a."], &[], "invalid namespace \"a.\""),
        (FRONTEND, &[], &certificate, "ETCD_AUTH_CLIENT_KEY"),
        (WORKER, &["--echo"], &certificate, "--etcd-client-key"),
        (FRONTEND, &["--etcd-client-key", "k"], &[], "--etcd-client-cert"),
        (FRONTEND, &["--etcd-ca", "/none.pem"], &[("ETCD_ENDPOINTS", "https://h:1")], "/none.pem"),
        (FRONTEND, &["--etcd-endpoints", "ftp://h"], &[], "ftp://h"),
        (FRONTEND, &["--discovery-backend", "memory"], &[], "lives in one process"),
        (WORKER, &["--echo", "--discovery-backend", "memory"], &[], "lives in one process"),
        (WORKER, &["--echo"], &memory, "lives in one process"),
        (FRONTEND, &["--discovery-backend", "zookeeper"], &[], "expected etcd or memory"),
        (FRONTEND, &["--router-mode", "kv"], &[], "expected round-robin"),
        (FRONTEND, &["--watch-scope", "key"], &[], "--watch-scope key needs a namespace"),
        (FRONTEND, &["--http-port", "99999"], &[], "99999"),
        (FRONTEND, &["--worker-url", "h:1"], &[], "not a worker's URL"),
        (FRONTEND, &["--tls-cert-path", "c"], &[], "without --tls-key-path (DYN_TLS_KEY_PATH)"),
        (FRONTEND, &["--tls-key-path", "k"], &[], "without --tls-cert-path (DYN_TLS_CERT_PATH)"),
        (FRONTEND, &["--tls-key-path", "/k"], &[("DYN_TLS_CERT_PATH", "/c")], "cannot read \"/c\""),
        (FRONTEND, &["--worker-ca", "/none.pem"], &[], "--worker-ca: cannot read \"/none.pem\""),
        (FRONTEND, &["--worker-ca", "/dev/null"], &[], "there is no certificate"),
        (WORKER, &["--echo", "--engine-ca", "/none.pem"], &[], "--engine-ca: cannot read"),
        (FRONTEND, &[], &[("DYN_HTTP_PORT", "http")], "DYN_HTTP_PORT=\"http\""),
        (FRONTEND, &[], &[("DYN_LOG", "dynamo=loud")], "DYN_LOG=\"dynamo=loud\""),
        (WORKER_CONFIG, &[], &[("DYN_LOGGING_JSONL", "maybe")], "DYN_LOGGING_JSONL=\"maybe\""),
        (WORKER_CONFIG, &["--format", "xml"], &[], "expected json or env"),
        (FRONTEND, &[], &[("DYN_HTTP_PORT", "tcp://192.0.2.1:8000")], "enableServiceLinks: false"),
        (FRONTEND, &[], &[("DYN_TLS_CLIENT_CA_CERT_PATH", "/ca.pem")], "needs --tls-cert-path"),
        (FRONTEND, &[], &[("DYN_TLS_MIN_VERSION", "1.3")], "DYN_TLS_MIN_VERSION is set"),
        (FRONTEND, &["--all-namespaces", "--namespace", "a"], &[], "leave one of the two out"),
        (FRONTEND, &["--state-file", "/dev/null"], &[], "/dev/null: it is no regular file"),
        (WORKER, &["--url", "http://$(POD_IP):8001"], &[], "variable was not replaced"),
        (WORKER, &["--echo", "--advertise-url", "http://$(POD_IP):1"], &[], "was not replaced"),
        (WORKER, &["--echo", "--advertise-url", "http://0.0.0.0:8001"], &[], "for listening"),
        (WORKER, &["--echo", "--advertise-url", "http://[::]:8001"], &[], "for listening"),
        (WORKER, &["--echo", "--advertise-url", "http://192.0.2.1:0"], &[], "port 0"),
        (FRONTEND, &[], &[("DYN_LOG", "verbose")], "DYN_LOG=\"verbose\": there is no level"),
        (WORKER, &[], &[], "no engine is given"),
        (WORKER, &["--", "true"], &[], "--url is needed"),
        (WORKER, &["--echo", "--lease-ttl", "1"], &[], "from 2"),
        (
            WORKER,
            &["--url", "http://127.0.0.1:1", "--", "/no/such"],
            &[],
            "cannot start \"/no/such\"",
        ),
    ] {
        // Without logs, the error is all that is left.
        let mut environment = environment.to_vec();
        if !environment.iter().any(|(name, _)| *name == "DYN_LOG") {
            environment.push(("DYN_LOG", "off"));
        }
        let ended = finish(program, arguments, &environment);
        let shown = format!("{arguments:?} {environment:?}: {ended:?}");
        assert_eq!(ended.code, 2, "{shown}");
        assert_eq!(ended.stdout, "", "{shown}");
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(part), "{shown}");
        assert_eq!(ended.stderr.lines().count(), 1, "{shown}");
    }
}

#[test]
fn no_program_repeats_a_password_that_it_is_given() {
    let secret = "http://user:hunter2@192.0.2.1:1";
    for (program, arguments, variables) in [
        (WORKER, &["--url", secret][..], &[][..]),
        (WORKER, &["--echo", "--advertise-url", secret], &[]),
        (WORKER, &["--urls", secret], &[]),
        (WORKER, &["--echo", secret], &[]),
        (FRONTEND, &["--worker-url", secret], &[]),
        (FRONTEND, &["--worker-url", "m=http://h;key=user:hunter2@h"], &[]),
        (FRONTEND, &["--etcd-endpoints", secret], &[]),
        (FRONTEND, &[], &[("ETCD_ENDPOINTS", secret)]),
        (FRONTEND, &[], &[("DYN_ROUTER_MODE", secret)]),
    ] {
        let ended = finish(program, arguments, variables);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(!(ended.stderr + &ended.stdout).contains("hunter2"), "{arguments:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (program, arguments, setting) in [
        (
            FRONTEND,
            ["--http-host", "127.0.0.1", "--http-port", &port],
            "--http-port (DYN_HTTP_PORT)",
        ),
        (
            WORKER,
            ["--echo", "--echo-host", "127.0.0.1", &format!("--echo-port={port}")],
            "--echo-port",
        ),
    ] {
        let ended = finish(program, &arguments, &[("DYN_LOG", "off")]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        let address = format!("127.0.0.1:{port}");
        for part in ["error: ", &address, setting, "in use"] {
            assert!(ended.stderr.contains(part), "{ended:?}");
        }
    }
}

#[test]
fn worker_config_prints_the_identity_that_it_resolved() {
    let print = |arguments: &[&str], environment: &[(&str, &str)]| -> Value {
        let ended = finish(WORKER_CONFIG, arguments, environment);
        assert_eq!(ended.code, 0, "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let identity = |namespace: &str, component: &str| {
        json!({
            "namespace": namespace, "component": component, "endpoint": "generate",
            "endpoint_id": format!("{namespace}.{component}.generate"),
        })
    };
    let team = ("DYN_NAMESPACE", "team-a");
    assert_eq!(print(&[], &[]), identity("global", "backend"));
    assert_eq!(print(&[], &[("DYN_NAMESPACE", "  ")]), identity("global", "backend"));
    assert_eq!(print(&[], &[team]), identity("team-a", "backend"));
    assert_eq!(print(&["--is-prefill-worker"], &[team]), identity("team-a", "prefill"));
    assert_eq!(print(&["--namespace", "b"], &[team]), identity("b", "backend"));
    let suffix = ("DYN_NAMESPACE_WORKER_SUFFIX", "0f3c9a1b");
    assert_eq!(print(&[], &[team, suffix]), identity("team-a-0f3c9a1b", "backend"));

    let ended = finish(WORKER_CONFIG, &["--format", "env"], &[team]);
    assert_eq!(
        ended.stdout,
        "DYN_WORKER_NAMESPACE=team-a\nDYN_WORKER_COMPONENT=backend\n\
         DYN_WORKER_ENDPOINT=generate\nDYN_WORKER_ENDPOINT_ID=team-a.backend.generate\n"
    );
    let logged = ended.stderr.trim();
    assert_eq!(logged.lines().count(), 1, "{logged}");
    for part in ["INFO", "namespace=team-a", "component=\"backend\"", "endpoint=\"generate\""] {
        assert!(logged.contains(part), "{logged}");
    }
}

#[test]
fn logs_are_plain_or_json_and_never_coloured_in_a_file() {
    let plain = finish(WORKER_CONFIG, &[], &[]);
    assert!(plain.stderr.contains(" INFO ") && !plain.stderr.contains('\u{1b}'), "{plain:?}");
    let json = finish(WORKER_CONFIG, &[], &[("DYN_LOGGING_JSONL", "1")]);
    let line: Value = serde_json::from_str(json.stderr.trim()).unwrap();
    assert_eq!(line["message"], "worker identity");
    assert_eq!(line["namespace"], "global");
    let quiet = finish(WORKER_CONFIG, &[], &[("DYN_LOG", "warn"), ("RUST_LOG", "debug")]);
    assert_eq!(quiet.stderr, "");
}

/// An echo engine, run by a worker whose store is away.
fn echo(arguments: &[&str]) -> (Running, String) {
    let worker = Running::start(WORKER, &[&["--echo"], &NO_ETCD[..], arguments].concat(), &[]);
    let url = worker.wait_for_field("the echo engine listens", "url");
    (worker, url)
}

/// A frontend on a free port, and its base URL.
fn frontend(arguments: &[&str], environment: &[(&str, &str)]) -> (Running, String) {
    let local = ["--http-host", "127.0.0.1", "--http-port", "0"];
    let frontend = Running::start(FRONTEND, &[&local, arguments].concat(), environment);
    let address = frontend.wait_for_field("listening", "address");
    let base = format!("http://{address}");
    (frontend, base)
}

fn wait_until_ready(base: &str) {
    until("the frontend is ready", || {
        ureq::get(format!("{base}/ready")).call().is_ok_and(|answer| answer.status() == 200)
    });
}

fn chat(text: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": text }]);
    json!({ "model": "m", "stream": stream, "messages": messages })
}

#[test]
fn a_frontend_serves_the_models_of_a_static_worker_from_end_to_end() {
    let (_worker, worker_url) = echo(&["--model", "m", "--echo-delay-ms", "0"]);
    let blank = [("DYN_NAMESPACE", " "), ("ETCD_ENDPOINTS", "")];
    let (frontend, base) = frontend(&["--worker-url", &worker_url], &blank);
    let started = frontend.wait_for("starting");
    for part in ["endpoint_id=global.frontend.http", "discovery=\"static\"", "namespace=global"] {
        assert!(started.contains(part), "{started}");
    }
    wait_until_ready(&base);

    let mut models = ureq::get(format!("{base}/v1/models")).call().unwrap();
    let models: Value = models.body_mut().read_json().unwrap();
    assert_eq!(models["data"][0]["id"], "m");
    let mut answer =
        ureq::post(format!("{base}/v1/chat/completions")).send_json(chat("hello", false)).unwrap();
    let answer: Value = answer.body_mut().read_json().unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    let mut stream =
        ureq::post(format!("{base}/v1/chat/completions")).send_json(chat("a b", true)).unwrap();
    let text = stream.body_mut().read_to_string().unwrap();
    assert!(text.contains("\"a \"") && text.ends_with("data: [DONE]\n\n"), "{text}");

    frontend.signal("TERM");
    assert_eq!(frontend.end().code, 0);
}

#[test]
fn a_frontend_says_whose_models_it_discovers() {
    let scoped = [("DYN_NAMESPACE", "team-a"), ("DYN_NAMESPACE_PREFIX", "team-b")];
    for (arguments, environment, parts) in [
        (&[][..], &[][..], ["=global.frontend.http", "discovery=\"global\"", "namespace=global"]),
        (&[], &scoped[..1], ["=team-a.frontend.http", "discovery=\"scoped\"", "namespace=team-a"]),
        (&[], &scoped, ["=team-b.frontend.http", "discovery=\"scoped\"", "namespace=team-b"]),
        (
            &["--namespace", "c", "--watch-scope", "key"],
            &scoped,
            ["=c.frontend.http", "discovery=\"scoped\"", "namespace=c"],
        ),
    ] {
        let (frontend, _) = frontend(&[&NO_ETCD[..], &AT_ONCE, arguments].concat(), environment);
        let started = frontend.wait_for("starting");
        for part in parts {
            assert!(started.contains(part), "{started}");
        }
        if arguments.contains(&"key") {
            frontend.wait_for("flat entries");
        }
        frontend.signal("INT");
        assert_eq!(frontend.end().code, 0);
    }
}

#[test]
fn a_stream_in_flight_ends_well_after_a_signal() {
    let (_worker, worker_url) = echo(&["--model", "m", "--echo-delay-ms", "100"]);
    let (frontend, base) =
        frontend(&[&AT_ONCE[..], &["--worker-url", &format!("m={worker_url}")]].concat(), &[]);
    wait_until_ready(&base);
    let words = "one two three four five six seven eight nine ten";
    let stream =
        ureq::post(format!("{base}/v1/chat/completions")).send_json(chat(words, true)).unwrap();
    let mut stream = BufReader::new(stream.into_body().into_reader());
    let mut begin = String::new();
    stream.read_line(&mut begin).unwrap();
    assert!(begin.starts_with("data: "));

    frontend.signal("TERM");
    frontend.wait_for("draining");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("ten") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert_eq!(frontend.end().code, 0);
}

#[test]
fn requests_that_outlast_the_drain_are_cut_and_a_second_signal_cuts_at_once() {
    let (_worker, worker_url) = echo(&["--model", "m", "--echo-delay-ms", "60000"]);
    let worker = format!("m={worker_url}");
    for (drain, signals) in [("0.2", 1), ("1000", 2)] {
        let drain = ["--worker-url", &worker, "--drain-timeout", drain];
        let (frontend, base) = frontend(&[&AT_ONCE[..], &drain].concat(), &[]);
        wait_until_ready(&base);
        let stream =
            ureq::post(format!("{base}/v1/chat/completions")).send_json(chat("a", true)).unwrap();
        frontend.signal("TERM");
        frontend.wait_for("draining");
        if signals == 2 {
            frontend.signal("INT");
        }
        let ended = frontend.end();
        assert!(ended.code == 0 && ended.stderr.contains("were cut"), "{ended:?}");
        drop(stream);
    }
}

#[test]
fn an_unreachable_store_is_retried_and_told_once() {
    let (worker, _) = echo(&["--drain-grace", "0"]);
    worker.wait_for("cannot register, trying again");
    worker.signal("TERM");
    assert_eq!(worker.end().code, 0);

    let debug = [("DYN_LOG", "dynamo_cli=debug")];
    let worker = Running::start(WORKER, &[&["--echo"], &NO_ETCD[..]].concat(), &debug);
    until("it has tried five times", || worker.logged().matches("cannot register").count() >= 5);
    assert_eq!(worker.logged().matches("WARN").count(), 1, "{}", worker.logged());
}

#[test]
fn a_loopback_address_in_a_remote_store_is_warned_of() {
    let remote = ["--echo", "--etcd-endpoints", "http://192.0.2.1:2379"];
    Running::start(WORKER, &remote, &[]).wait_for("--advertise-url says what frontends reach");
    let advertised = [&remote[..], &["--advertise-url", "http://10.0.0.1:1"]].concat();
    let worker = Running::start(WORKER, &advertised, &[]);
    worker.wait_for("advertised=http://10.0.0.1:1");
    assert!(!worker.logged().contains("--advertise-url says"));
}

/// A worker that runs a script as its engine, which never gets healthy.
fn run_script(script: &str, arguments: &[&str]) -> Running {
    let url = ["--url", "http://127.0.0.1:1"];
    let command = ["--", "sh", "-c", script];
    Running::start(WORKER, &[&url, &NO_ETCD[..], arguments, &command].concat(), &[])
}

#[test]
fn the_exit_code_of_the_engine_is_passed_on() {
    for (script, code) in
        [("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("exit 0", 1)]
    {
        let ended = run_script(script, &[]).end();
        assert_eq!(ended.code, code, "{script}: {ended:?}");
        assert!(ended.stderr.contains("the engine ended by itself"), "{ended:?}");
    }
}

#[test]
fn the_engine_gets_the_signals_and_its_code_is_that_of_the_worker() {
    // Whoever asks the worker to stop, the engine is asked by SIGTERM.
    for (signal, trapped, code) in [("TERM", "TERM", 3), ("INT", "TERM", 4), ("USR1", "USR1", 9)] {
        let trap = format!("trap 'exit {code}' {trapped}");
        let worker = run_script(&format!("{trap}; echo up >&2; while :; do sleep 0.05; done"), &[]);
        worker.wait_for("up");
        worker.signal(signal);
        assert_eq!(worker.end().code, code, "{signal}");
    }
    // Ended by the very signal that asks for it.
    let worker = run_script("echo up >&2; exec sleep 1000", &[]);
    worker.wait_for("up");
    worker.signal("TERM");
    assert_eq!(worker.end().code, 0);
}

#[test]
fn only_the_engine_itself_is_told_to_end_and_then_what_it_leaves_behind() {
    let child = "trap 'echo child told >&2; exit 0' TERM; trap 'echo child asked >&2; exit 0' USR1; \
                 echo up >&2; while :; do sleep 0.05; done";
    // One that ends what it started in its own way, and one that ends without it.
    for (last_deed, told) in [("kill -USR1 $!; wait $!;", "child asked"), ("", "child told")] {
        let trap = format!("trap '{last_deed} exit 6' TERM");
        let script = format!("{trap}; ({child}) & while :; do sleep 0.05; done");
        let worker = run_script(&script, &[]);
        worker.wait_for("up");
        worker.signal("TERM");
        let ended = worker.end();
        assert_eq!(ended.code, 6, "{ended:?}");
        let said = |what: &&str| ended.stderr.contains(*what);
        let all: Vec<_> = ["child asked", "child told"].into_iter().filter(said).collect();
        assert_eq!(all, [told], "{ended:?}");
    }
}

#[test]
fn an_engine_is_told_even_if_the_script_that_waits_for_it_does_not_tell_it() {
    // A shell runs no trap before its foreground command ends.
    let engine = "trap \"echo engine told >&2; exit 0\" TERM; echo up >&2; \
                  while :; do sleep 0.05; done";
    let script = format!("trap 'exit 6' TERM; sh -c '{engine}'");
    // It is told after half of that, and has the other half to end.
    let worker = run_script(&script, &["--stop-timeout", "10"]);
    worker.wait_for("up");
    worker.signal("TERM");
    let ended = worker.end();
    assert_eq!(ended.code, 6, "{ended:?}");
    assert!(ended.stderr.contains("engine told"), "{ended:?}");
}

#[test]
fn no_process_of_the_engine_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pids");
    let path = file.display();
    let deaf = format!(
        "trap '' TERM; sleep 1000 & echo $! $$ > {path}.new; mv {path}.new {path}; wait; wait"
    );
    let leaver = format!("sleep 1000 & echo $! > {path}.new; mv {path}.new {path}; exit 5");
    // In a session of its own, no signal to a process group reaches it.
    let apart = format!("setsid sleep 1000 & echo $! > {path}.new; mv {path}.new {path}; ");
    let (asked_apart, left_apart) = (format!("{apart} wait"), format!("{apart} kill -9 $$"));
    for (script, asked, code) in
        [(deaf, true, 137), (leaver, false, 5), (asked_apart, true, 0), (left_apart, false, 137)]
    {
        let worker = run_script(&script, &["--stop-timeout", "0.2"]);
        until("the engine has started", || file.exists());
        if asked {
            worker.signal("TERM");
        }
        assert_eq!(worker.end().code, code);
        for pid in fs::read_to_string(&file).unwrap().split_whitespace() {
            until("the process is gone", || !is_running(pid));
        }
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn another_signal_speeds_the_end_up() {
    // Without the second signal it would outlast the test's patience.
    let deaf = "trap '' TERM; echo up >&2; while :; do sleep 0.05; done";
    let worker = run_script(deaf, &["--stop-timeout", "600"]);
    worker.wait_for("up");
    worker.signal("TERM");
    worker.wait_for("asking the engine to end");
    worker.signal("INT");
    let ended = worker.end();
    assert_eq!(ended.code, 137, "{ended:?}");
}

#[test]
fn an_engine_that_does_not_get_healthy_in_time_is_one_line_and_exit_1() {
    let worker = run_script("exec sleep 1000", &["--start-timeout", "0.3"]);
    let ended = worker.end();
    assert_eq!(ended.code, 1);
    let last = ended.stderr.lines().last().unwrap();
    assert_eq!(last, "error: the engine at http://127.0.0.1:1 was not ready within 0.3 s");
}

#[test]
fn a_frontend_goes_on_after_a_hang_up_whether_or_not_it_has_keys() {
    let (frontend, base) = frontend(&[&NO_ETCD[..], &AT_ONCE].concat(), &[]);
    frontend.signal("HUP");
    frontend.wait_for("SIGHUP");
    assert_eq!(ureq::get(format!("{base}/live")).call().unwrap().status(), 200);
    frontend.signal("TERM");
    assert_eq!(frontend.end().code, 0);
}

#[test]
fn a_worker_without_a_terminal_goes_on_after_a_hang_up() {
    // A worker that `nohup` has started ignores hang-ups, and these tests may be run by `nohup`.
    let without = ["--default-signal=HUP", "setsid"];
    let command = [&without[..], &[WORKER, "--echo", "--drain-grace", "0"], &NO_ETCD].concat();
    let worker = Running::start("env", &command, &[]);
    worker.wait_for("following the engine");
    worker.signal("HUP");
    worker.wait_for("SIGHUP");
    worker.signal("TERM");
    assert_eq!(worker.end().code, 0);
}

#[test]
fn an_engine_inherits_the_environment_without_our_secrets() {
    let environment = [
        ("ETCD_AUTH_USERNAME", "worker"),
        ("ETCD_AUTH_PASSWORD", "hunter2"),
        ("HF_TOKEN", "its own"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a"),
    ];
    let script = "echo \"inherits ${ETCD_AUTH_PASSWORD-none}, ${HF_TOKEN-none}, \
                  ${ETCD_AUTH_USERNAME-none}, $OTEL_EXPORTER_OTLP_HEADERS\" >&2; exit 5";
    let url = ["--url", "http://127.0.0.1:1"];
    let command = ["--", "sh", "-c", script];
    let arguments = [&url, &NO_ETCD[..], &command].concat();
    let ended = Running::start(WORKER, &arguments, &environment).end();
    assert!(ended.stderr.contains("inherits none, its own, worker, x-team=a"), "{ended:?}");
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}

#[test]
fn a_variable_that_is_nearly_one_of_ours_is_named_once() {
    let ended = finish(WORKER_CONFIG, &[], &[("DYN_NAMESPCE", "team-a")]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let told: Vec<_> = ended.stderr.lines().filter(|line| line.contains("DYN_NAMESPCE")).collect();
    assert_eq!(told.len(), 1, "{ended:?}");
    assert!(told[0].contains("WARN") && told[0].contains("is DYN_NAMESPACE meant?"), "{told:?}");
}

#[test]
fn a_suffix_that_is_no_generation_is_warned_of() {
    let config = |suffix| {
        let variables = [("DYN_NAMESPACE", "team-a"), ("DYN_NAMESPACE_WORKER_SUFFIX", suffix)];
        finish(WORKER_CONFIG, &[], &variables).stderr
    };
    let log = config("v2");
    assert!(log.contains("WARN") && log.contains("--namespace-prefix team-a does not"), "{log}");
    assert!(!config("0f3c9a1b").contains("WARN"));
}

#[test]
fn a_frontend_that_discovers_all_namespaces_unasked_warns_of_it() {
    for (arguments, warns) in [(&[][..], true), (&["--all-namespaces"], false)] {
        let (frontend, _) = frontend(&[&NO_ETCD[..], &AT_ONCE, arguments].concat(), &[]);
        frontend.signal("TERM");
        let ended = frontend.end();
        assert_eq!(
            ended.stderr.contains("all namespaces: no namespace is given"),
            warns,
            "{ended:?}"
        );
    }
}

#[test]
fn the_version_in_a_base_url_is_dropped_and_an_engine_that_is_not_there_is_told_by_its_url() {
    let url = ["--url", "http://127.0.0.1:1/v1", "--start-timeout", "0.5"];
    let ended = finish(WORKER, &[&url[..], &NO_ETCD].concat(), &[]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let dropped = ended.stderr.lines().filter(|line| line.contains("/v1 at its end"));
    assert_eq!(dropped.count(), 1, "{ended:?}");
    let waiting =
        ended.stderr.lines().find(|line| line.contains("waiting for the engine")).unwrap();
    assert!(waiting.contains("http://127.0.0.1:1/health"), "{waiting}");
}
