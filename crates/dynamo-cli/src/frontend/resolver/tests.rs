//! The resolver, against a server of names on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// A server of names. It knows what the test tells it, and nothing else.
#[derive(Clone, Default)]
struct Server {
    known: Arc<Mutex<HashMap<&'static str, Vec<IpAddr>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// It answers SERVFAIL to everything.
    broken: Arc<Mutex<bool>>,
    /// It answers SERVFAIL to the question for the addresses of these kinds.
    cannot_tell: Arc<Mutex<Vec<(&'static str, u16)>>>,
}

impl Server {
    async fn start(address: &str) -> (Self, SocketAddr) {
        let socket = UdpSocket::bind(address).await.unwrap();
        let at = socket.local_addr().unwrap();
        let server = Self::default();
        let this = server.clone();
        tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                socket.send_to(&this.answer(&question[..length]), from).await.unwrap();
            }
        });
        (server, at)
    }

    fn knows(&self, name: &'static str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        self.known.lock().unwrap().insert(name, addresses);
    }

    fn forgets(&self, name: &str) {
        self.known.lock().unwrap().remove(name);
    }

    /// How often the IPv4 addresses of a name were asked for.
    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    /// An answer in the format of RFC 1035, with a time to live of one second.
    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let (mut labels, mut at) = (Vec::new(), 12);
        while question[at] > 0 {
            let end = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
            at = end;
        }
        let end_of_question = at + 5;
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let name = labels.join(".");
        let found = self.known.lock().unwrap().get(name.as_str()).cloned();
        let cannot_tell = |unknown: &(&str, u16)| *unknown == (name.as_str(), kind);
        let is_broken = *self.broken.lock().unwrap()
            || self.cannot_tell.lock().unwrap().iter().any(cannot_tell);
        let code = if is_broken {
            2
        } else if found.is_none() {
            3
        } else {
            0
        };
        let addresses: Vec<_> = found
            .into_iter()
            .flatten()
            .filter(|address| kind == if address.is_ipv4() { TYPE_A } else { TYPE_AAAA })
            .filter(|_| !is_broken)
            .collect();
        if kind == TYPE_A {
            self.asked.lock().unwrap().push(name);
        }

        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
        answer.extend(&question[12..end_of_question]);
        for address in addresses {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 1]);
            let bytes = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            answer.extend((bytes.len() as u16).to_be_bytes());
            answer.extend(bytes);
        }
        answer
    }
}

fn resolver(conf: &str, hosts: &str, port: u16) -> DnsResolver {
    DnsResolver::new(Sources::new(conf, hosts, port).unwrap())
}

/// The addresses of a name, sorted; or what went wrong.
async fn addresses(resolver: &DnsResolver, host: &str) -> Result<Vec<String>, ResolveError> {
    let found = timeout(Duration::from_secs(30), resolver.resolve(host)).await.expect("in time")?;
    let mut found: Vec<_> = found.iter().map(ToString::to_string).collect();
    found.sort();
    Ok(found)
}

#[tokio::test]
async fn names_are_searched_for_as_resolv_conf_says_and_hosts_come_first() {
    let (server, at) = Server::start("127.0.0.1:0").await;
    // As Kubernetes writes it.
    let conf =
        "nameserver 127.0.0.1\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n";
    let hosts = "127.0.0.1 localhost\n192.0.2.9 gpu-9 gpu-9.example # by hand\n2001:db8::9 gpu-9\n";
    let resolver = resolver(conf, hosts, at.port());
    server.knows("vllm.ns.svc.cluster.local", &["192.0.2.1"]);
    server.knows("vllm.other.svc.cluster.local", &["192.0.2.2", "2001:db8::2"]);
    server.knows("gpu-7.example", &["192.0.2.7"]);
    for (host, expected) in [
        ("vllm", &["192.0.2.1"][..]),
        ("vllm.other", &["192.0.2.2", "2001:db8::2"]),
        ("vllm.other.svc.cluster.local.", &["192.0.2.2", "2001:db8::2"]),
        ("gpu-7.example", &["192.0.2.7"]),
        ("gpu-9", &["192.0.2.9", "2001:db8::9"]),
        ("GPU-9.example", &["192.0.2.9"]),
        ("localhost", &["127.0.0.1"]),
    ] {
        assert_eq!(addresses(&resolver, host).await.unwrap(), expected, "{host}");
    }
    assert_eq!(server.asked("gpu-9"), 0);
    assert_eq!(server.asked("gpu-9.ns.svc.cluster.local"), 0, "a name of hosts is not asked for");
    assert!(server.asked("gpu-7.example.ns.svc.cluster.local") > 0, "ndots is heeded");
}

#[tokio::test]
async fn an_answer_is_remembered_while_it_is_valid_and_a_changed_address_is_found_then() {
    let (server, at) = Server::start("127.0.0.1:0").await;
    let resolver = resolver("nameserver 127.0.0.1\n", "", at.port());
    server.knows("gpu-7.example", &["192.0.2.7"]);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(addresses(&resolver, "gpu-7.example").await.unwrap(), ["192.0.2.7"]);
    }
    // An answer is valid for a second.
    let seconds = began.elapsed().as_secs() as usize;
    assert!(server.asked("gpu-7.example") <= seconds + 1, "the answers are remembered");

    server.knows("gpu-7.example", &["192.0.2.8"]);
    let changed = async {
        while addresses(&resolver, "gpu-7.example").await.unwrap() != ["192.0.2.8"] {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), changed).await.expect("the new address is found");
    server.forgets("gpu-7.example");
    let gone = async {
        while addresses(&resolver, "gpu-7.example").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.expect("the name is gone");
    let error = addresses(&resolver, "gpu-7.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFound), "{error}");
}

#[tokio::test]
async fn no_answer_is_told_from_no_name_and_a_server_that_is_away_is_passed_over() {
    let (server, at) = Server::start("127.0.0.1:0").await;
    server.knows("gpu-7.example", &["192.0.2.7"]);
    let port = at.port();
    // Nobody is at the first address.
    let both = resolver("nameserver 127.0.0.2\nnameserver 127.0.0.1\n", "", port);
    assert_eq!(addresses(&both, "gpu-7.example").await.unwrap(), ["192.0.2.7"]);

    let one = resolver("nameserver 127.0.0.1\n", "", port);
    let error = addresses(&one, "gpu-8.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFound), "{error}");
    for host in ["..", "a..b"] {
        let error = addresses(&one, host).await.unwrap_err();
        assert!(matches!(error, ResolveError::NotFound), "{host}: {error}");
    }
    *server.broken.lock().unwrap() = true;
    let error = addresses(&one, "gpu-6.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer(_)), "{error:?}");
    let nobody = resolver("nameserver 127.0.0.2\n", "", port);
    let error = addresses(&nobody, "gpu-7.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer(_)), "{error:?}");
}

#[tokio::test]
async fn a_name_is_gone_only_if_no_question_about_it_is_without_an_answer() {
    let (server, at) = Server::start("127.0.0.1:0").await;
    // It has an address, and there is none of IPv6.
    server.knows("gpu-7.example", &["192.0.2.7"]);
    for search in
        ["", "search ns.svc.cluster.local\n", "search ns.svc.cluster.local\noptions ndots:5\n"]
    {
        let conf = format!("nameserver 127.0.0.1\n{search}");
        let resolver = || resolver(&conf, "", at.port());
        assert_eq!(addresses(&resolver(), "gpu-7.example").await.unwrap(), ["192.0.2.7"]);
        for kind in [TYPE_A, TYPE_AAAA] {
            *server.cannot_tell.lock().unwrap() = vec![("gpu-7.example", kind)];
            match addresses(&resolver(), "gpu-7.example").await {
                Ok(found) => {
                    assert_eq!((kind, &*found), (TYPE_AAAA, &["192.0.2.7".to_owned()][..]))
                }
                Err(error) => assert!(matches!(error, ResolveError::NoAnswer(_)), "{error:?}"),
            }
        }
        *server.cannot_tell.lock().unwrap() = Vec::new();
        let error = addresses(&resolver(), "gpu-8.example").await.unwrap_err();
        assert!(matches!(error, ResolveError::NotFound), "{error:?}");
    }
}

#[tokio::test]
async fn a_resolv_conf_that_changes_is_taken_up_and_one_that_names_no_server_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    for text in ["", "search example\n"] {
        std::fs::write(&path, text).unwrap();
        assert!(start(Some(path.clone()), true, ProgramProblems::default()).await.is_err());
        assert!(
            start(Some(path.clone()), false, ProgramProblems::default()).await.unwrap().is_none()
        );
    }
    std::fs::write(&path, "nameserver 127.0.0.1\nsearch one.example\n").unwrap();
    let (resolver, following) = follow(path.clone(), ProgramProblems::default()).await.unwrap();
    tokio::spawn(following);
    let search = || resolver.sources().servers.options().ndots;
    assert_eq!(search(), 1);
    std::fs::write(&path, "nameserver 127.0.0.1\noptions ndots:5\n").unwrap();
    let taken_up = async {
        while search() != 5 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), taken_up).await.expect("in time");
}
