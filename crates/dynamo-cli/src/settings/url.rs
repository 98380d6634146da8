//! URLs as people give them: what is dropped from one, and what nobody else could connect to.

use std::net::IpAddr;

use dynamo_discovery::WorkerUrl;
use tracing::info;

use super::given::Value;
use crate::failure::Failure;

/// The base URL that is meant. Clients of OpenAI's API have one that ends in `/v1`, and the routes of
/// a worker begin with that.
pub(crate) fn base(url: WorkerUrl, setting: &str) -> WorkerUrl {
    let base = url.as_str().strip_suffix("/v1").and_then(|base| base.parse::<WorkerUrl>().ok());
    let Some(base) = base else { return url };
    info!(given = %url, used = %base, "{setting}: the base URL has no /v1 at its end; it is dropped");
    base
}

/// The URL under which frontends shall reach an engine.
///
/// # Errors
///
/// When it says no host or port that another machine could connect to.
pub(crate) fn published(url: &Value<Option<WorkerUrl>>) -> Result<Option<WorkerUrl>, Failure> {
    let Some(url_given) = &**url else { return Ok(None) };
    match why_unreachable(url_given) {
        None => Ok(Some(base(url_given.clone(), &url.setting.label()))),
        Some(why) => Err(Failure::usage(format!(
            "{}: no frontend can reach {url_given}: {why}",
            url.source()
        ))),
    }
}

/// Why nobody can connect there from elsewhere, as far as the text tells.
pub(crate) fn why_unreachable(url: &WorkerUrl) -> Option<&'static str> {
    let uri = url.to_uri();
    let host = uri.host().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if host.contains('$') {
        return Some(
            "its variable was not replaced; Kubernetes replaces those that stand under env of the \
             same container, and a shell those in double quotes",
        );
    }
    if literal.is_ok_and(|address| address.to_canonical().is_unspecified()) {
        return Some("that address is for listening; say the address of this machine");
    }
    (uri.port_u16() == Some(0)).then_some("port 0 is for listening; say the port that was taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> WorkerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn the_version_at_the_end_of_a_base_url_is_dropped() {
        for (given, used) in [
            ("http://h:1/v1", "http://h:1"),
            ("http://h:1/v1/", "http://h:1"),
            ("http://h/llm/v1", "http://h/llm"),
            ("http://h:1", "http://h:1"),
            ("http://h/v1/llm", "http://h/v1/llm"),
            ("http://v1", "http://v1"),
            ("http://h/av1", "http://h/av1"),
        ] {
            assert_eq!(base(url(given), "--url"), url(used), "{given}");
        }
    }

    #[test]
    fn an_address_that_only_a_listener_can_use_is_told() {
        for (text, part) in [
            ("http://$(POD_IP):8001", "variable"),
            ("http://0.0.0.0:8001", "for listening"),
            ("http://[::]:8001", "for listening"),
            ("http://[::ffff:0.0.0.0]", "for listening"),
            ("http://h:0", "port 0"),
        ] {
            let why = why_unreachable(&url(text)).unwrap_or_default();
            assert!(why.contains(part), "{text}: {why}");
        }
        for text in ["http://192.0.2.1:8001", "http://127.0.0.1:1", "https://engine.example"] {
            assert_eq!(why_unreachable(&url(text)), None, "{text}");
        }
    }
}
