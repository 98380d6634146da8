//! Where a control port listens, and what frontends are told of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use dynamo_discovery::{ControlUrl, WorkerUrl};
use tokio::net::{TcpListener, lookup_host};
use tokio::time::timeout;
use tracing::warn;

use super::config::ControlConfig;
use crate::failure::Failure;
use crate::settings::table::Control;

/// How long a name may take to resolve.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens where the user says, else at the host of the advertised URL.
///
/// There is no control port where that host is none of this machine, unless the user says how
/// frontends reach one: then it is forwarded, and listens on all addresses.
pub(super) async fn listen(
    config: &ControlConfig,
    advertised: &WorkerUrl,
) -> Result<Option<(TcpListener, ControlUrl)>, Failure> {
    let host = advertised.host();
    let (listener, named) = match &config.host {
        Some(given) => (bind(given, config.port).await, given.as_str()),
        None => match bind_here(host, config.port).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                if config.advertise_url.is_none() {
                    warn!(
                        url = %advertised,
                        "there is no control port, since that address is not on this machine: \
                         --control-advertise-url says where frontends reach one, --no-control that \
                         none is wanted"
                    );
                    return Ok(None);
                }
                (bind_everywhere(config.port).await, host)
            }
            bound => (bound, host),
        },
    };
    let listener = listener
        .with_context(|| {
            let settings = [Control::control_host.label(), Control::control_port.label()];
            format!(
                "the control port cannot listen on host {}, port {}; see {}",
                bare(named),
                config.port,
                settings.join(" and ")
            )
        })
        .map_err(Failure::Running)?;
    if let Some(url) = &config.advertise_url {
        return Ok(Some((listener, url.clone())));
    }
    let port = listener.local_addr().context("no local address").map_err(Failure::Running)?.port();
    // An address that stands for all of them leads nowhere.
    let stands_for_all = bare(named).parse().is_ok_and(|address: IpAddr| address.is_unspecified());
    let named = if stands_for_all { host } else { named };
    let url = url_of(named, port)
        .with_context(|| format!("{}: {named} cannot be advertised", Control::control_host.label()))
        .map_err(Failure::Usage)?;
    Ok(Some((listener, url)))
}

fn url_of(host: &str, port: u16) -> Result<ControlUrl, dynamo_discovery::InvalidUrl> {
    match bare(host).parse() {
        Ok(IpAddr::V6(address)) => format!("http://[{address}]:{port}").parse(),
        _ => format!("http://{host}:{port}").parse(),
    }
}

/// A host without the brackets that an IPv6 address has in a URL.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((bare(host), port)).await
}

/// Listens at a host of this machine; another host is an address that is not available.
async fn bind_here(host: &str, port: u16) -> io::Result<TcpListener> {
    let unknown = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((host, port))).await.map_err(|_| unknown())?;
    let addresses: Vec<SocketAddr> = found.map_err(|_| unknown())?.collect();
    if is_known_to_itself_only(host, &addresses) {
        return bind_everywhere(port).await;
    }
    TcpListener::bind(&addresses[..]).await
}

/// Whether this is the name of the machine where its own file of hosts has a loopback address for
/// it, as Debian's has: others reach it at another address, which that file does not tell.
fn is_known_to_itself_only(host: &str, addresses: &[SocketAddr]) -> bool {
    let is_name = host.parse::<IpAddr>().is_err();
    is_name
        && host != "localhost"
        && !host.ends_with(".localhost")
        && !addresses.is_empty()
        && addresses.iter().all(|address| address.ip().is_loopback())
}

/// Listens on all addresses, those of IPv4 as well.
async fn bind_everywhere(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        // A machine without IPv6.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ControlConfig {
        ControlConfig::default()
    }

    /// Where it listens and what it advertises, with `PORT` for the port; none where there is none.
    async fn listened(config: ControlConfig, advertised: &str) -> Option<(String, String)> {
        let (listener, url) = listen(&config, &advertised.parse().unwrap()).await.unwrap()?;
        let address = listener.local_addr().unwrap();
        let (ip, port) = (address.ip().to_string(), format!(":{}", address.port()));
        Some((ip, url.to_string().replace(&port, ":PORT")))
    }

    fn some(ip: &str, url: &str) -> Option<(String, String)> {
        Some((ip.to_owned(), url.to_owned()))
    }

    #[tokio::test]
    async fn it_listens_at_the_host_of_the_advertised_url() {
        for (advertised, ip, url) in [
            ("http://127.0.0.1:8001/llm", "127.0.0.1", "http://127.0.0.1:PORT"),
            ("https://127.0.0.1", "127.0.0.1", "http://127.0.0.1:PORT"),
            ("http://[::1]:8001", "::1", "http://[::1]:PORT"),
        ] {
            assert_eq!(listened(config(), advertised).await, some(ip, url), "{advertised}");
        }
    }

    #[tokio::test]
    async fn a_host_that_is_given_is_listened_on_and_advertised_unless_it_stands_for_all() {
        let at = |host: &str| ControlConfig { host: Some(host.into()), ..config() };
        for (host, ip, url) in [
            ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:PORT"),
            ("::1", "::1", "http://[::1]:PORT"),
            ("[::1]", "::1", "http://[::1]:PORT"),
            ("0.0.0.0", "0.0.0.0", "http://192.0.2.7:PORT"),
            ("::", "::", "http://192.0.2.7:PORT"),
        ] {
            assert_eq!(listened(at(host), "http://192.0.2.7:8001").await, some(ip, url), "{host}");
        }
    }

    #[tokio::test]
    async fn without_an_address_of_this_machine_there_is_none_unless_one_is_forwarded() {
        for advertised in ["http://192.0.2.7:8001", "http://[2001:db8::7]:8001"] {
            assert_eq!(listened(config(), advertised).await, None, "{advertised}");
        }
        let forwarded: ControlUrl = "https://gpu-7.example:9001".parse().unwrap();
        let config = ControlConfig { advertise_url: Some(forwarded), ..config() };
        let (ip, url) = listened(config, "http://192.0.2.7:8001").await.unwrap();
        assert!(["::", "0.0.0.0"].contains(&ip.as_str()), "{ip}");
        assert_eq!(url, "https://gpu-7.example:9001");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let config = ControlConfig { port, ..config() };
        let failure = listen(&config, &"http://127.0.0.1:1".parse().unwrap()).await.unwrap_err();
        let text = failure.to_string();
        assert!(matches!(failure, Failure::Running(_)), "{text}");
        for part in ["127.0.0.1", &port.to_string(), "--control-port", "in use"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_name_that_only_its_own_machine_takes_for_loopback_is_told_from_the_rest() {
        let loopback = [SocketAddr::from(([127, 0, 1, 1], 0))];
        let both = [SocketAddr::from(([127, 0, 1, 1], 0)), SocketAddr::from(([192, 0, 2, 7], 0))];
        for (host, addresses, expected) in [
            ("gpu-7", &loopback[..], true),
            ("gpu-7", &both[..], false),
            ("localhost", &loopback[..], false),
            ("a.localhost", &loopback[..], false),
            ("127.0.1.1", &loopback[..], false),
            ("gpu-7", &[], false),
        ] {
            assert_eq!(is_known_to_itself_only(host, addresses), expected, "{host} {addresses:?}");
        }
    }
}
