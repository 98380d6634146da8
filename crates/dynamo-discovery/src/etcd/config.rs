//! How to reach etcd.

use std::time::Duration;

use http::Uri;
use http::uri::Scheme;

use super::Password;

use crate::authority::host_and_port;

/// How to reach etcd.
///
/// Features only add methods to it: code that builds it does so with any set of them.
///
/// ```
/// use dynamo_discovery::{Credentials, EtcdConfig, EtcdStore};
///
/// let config = EtcdConfig::new(["http://192.0.2.1:2379", "http://192.0.2.2:2379"])
///     .with_credentials(Credentials::new("team-a", "a password"));
/// let store = EtcdStore::new(config)?;
/// # Ok::<(), dynamo_discovery::EtcdConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct EtcdConfig {
    pub(super) endpoints: Vec<String>,
    pub(super) credentials: Option<Credentials>,
    #[cfg(feature = "etcd-tls")]
    pub(super) tls: Option<super::Tls>,
    pub(super) connect_timeout: Duration,
    pub(super) call_timeout: Duration,
}

impl EtcdConfig {
    /// The endpoint that etcd listens on unless it is configured otherwise.
    pub const DEFAULT_ENDPOINT: &str = "http://localhost:2379";

    /// The cluster with these members, in any order; some may be away, or not exist. One member is
    /// used at a time, for as long as it answers.
    ///
    /// An endpoint is `http://host:port` or `https://host:port`. Without a scheme it is `https` where
    /// TLS is configured, else `http`. [`EtcdStore::new`](super::EtcdStore::new) checks them.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            credentials: None,
            #[cfg(feature = "etcd-tls")]
            tls: None,
            connect_timeout: Duration::from_secs(1),
            call_timeout: Duration::from_secs(2),
        }
    }

    /// Sets other endpoints.
    pub fn with_endpoints(self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the user, or `None`. By default there is none, for an etcd without authentication.
    pub fn with_credentials(self, credentials: impl Into<Option<Credentials>>) -> Self {
        Self { credentials: credentials.into(), ..self }
    }

    /// Turns TLS on, with these files. With `None`, which is the default, an `https` endpoint turns it
    /// on, with [`Tls::new`](super::Tls::new).
    #[cfg(feature = "etcd-tls")]
    pub fn with_tls(self, tls: impl Into<Option<super::Tls>>) -> Self {
        Self { tls: tls.into(), ..self }
    }

    /// Sets how long connecting to one endpoint may take. By default 1 second.
    pub fn with_connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// Sets how long one call may take. The search for another member, where the one in use has
    /// failed, may take as long again. By default 2 seconds.
    pub fn with_call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// The endpoints, as given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(super) fn asks_for_tls(&self) -> bool {
        #[cfg(feature = "etcd-tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "etcd-tls"))]
        false
    }
}

/// One member, at [`DEFAULT_ENDPOINT`](Self::DEFAULT_ENDPOINT).
impl Default for EtcdConfig {
    fn default() -> Self {
        Self::new([Self::DEFAULT_ENDPOINT])
    }
}

/// A user of etcd's authentication. Its `Debug` leaves the password out.
#[derive(Clone, derive_more::Debug, PartialEq, Eq)]
#[debug("Credentials({username:?})")]
pub struct Credentials {
    pub(super) username: String,
    pub(super) password: Password,
}

impl Credentials {
    /// The user of this name, with this password, or with one in a file
    /// ([`Password::File`](super::Password::File)).
    pub fn new(username: impl Into<String>, password: impl Into<Password>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    /// The user's name.
    pub fn username(&self) -> &str {
        &self.username
    }
}

/// Why an [`EtcdConfig`] cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdConfigError {
    /// There is no endpoint.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// An endpoint is not a URL of a host.
    #[error("`{0}` is not an etcd endpoint of the form http://host:port")]
    Endpoint(String),
    /// An endpoint has user info. Only the part after it is told.
    #[error("the etcd endpoint at `{0}` has user info: give the credentials apart")]
    UserInfo(String),
    /// An endpoint is `https`, which this build cannot do.
    #[error("the etcd endpoint `{0}` needs TLS, which this build leaves out (feature `etcd-tls`)")]
    NoTls(String),
    /// An endpoint is `http`, though TLS is configured or another endpoint is `https`.
    #[error("the etcd endpoint `{0}` is not https, though TLS is asked for")]
    NotHttps(String),
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file of a password is empty.
    #[error("`{}` holds no password", path.display())]
    NoPassword {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A file has another content than it should have.
    #[cfg(feature = "etcd-tls")]
    #[error("`{}` holds no {expected} in PEM", path.display())]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// The content that it should have.
        expected: &'static str,
    },
}

/// The endpoints as URLs, all `https` or none.
pub(super) fn parse_endpoints(
    texts: &[String],
    tls_configured: bool,
) -> Result<Vec<String>, EtcdConfigError> {
    if texts.is_empty() {
        return Err(EtcdConfigError::NoEndpoint);
    }
    let parsed: Vec<_> = texts.iter().map(|text| parse_endpoint(text)).collect::<Result<_, _>>()?;
    let has = |wanted: &Scheme| {
        let mut pairs = parsed.iter().zip(texts);
        pairs.find(|((scheme, _), _)| scheme.as_ref() == Some(wanted)).map(|(_, text)| text.clone())
    };
    let (http, https) = (has(&Scheme::HTTP), has(&Scheme::HTTPS));
    let tls = tls_configured || https.is_some();
    match (http, https) {
        (_, Some(https)) if !cfg!(feature = "etcd-tls") => Err(EtcdConfigError::NoTls(https)),
        (Some(http), _) if tls => Err(EtcdConfigError::NotHttps(http)),
        _ => {
            let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
            Ok(parsed.iter().map(|(_, authority)| format!("{scheme}://{authority}")).collect())
        }
    }
}

/// The scheme, where there is one, and the host with its port.
fn parse_endpoint(text: &str) -> Result<(Option<Scheme>, String), EtcdConfigError> {
    if let Some((_, host)) = text.rsplit_once('@') {
        return Err(EtcdConfigError::UserInfo(host.to_owned()));
    }
    let malformed = || EtcdConfigError::Endpoint(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| malformed())?;
    let known = uri.scheme().is_none_or(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
    let bare = uri.path().trim_start_matches('/').is_empty()
        && uri.query().is_none()
        && !text.contains('#');
    let authority = uri.authority().filter(|authority| host_and_port(authority.as_str()).is_some());
    match authority {
        Some(authority) if known && bare => {
            Ok((uri.scheme().cloned(), authority.as_str().to_owned()))
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str], tls: bool) -> Result<Vec<String>, String> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        parse_endpoints(&texts, tls).map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_are_urls_of_hosts_with_or_without_a_scheme() {
        for (text, expected) in [
            ("http://localhost:2379", "http://localhost:2379"),
            ("http://localhost:2379/", "http://localhost:2379"),
            ("http://[::1]:2379", "http://[::1]:2379"),
            ("etcd.example:2379", "http://etcd.example:2379"),
            ("127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("etcd", "http://etcd"),
        ] {
            assert_eq!(parse(&[text], false), Ok(vec![expected.into()]));
        }
    }

    #[test]
    fn an_endpoint_that_is_none_is_named() {
        for text in [
            "",
            " ",
            "http://",
            "http://:2379",
            "http://h:",
            "http://h:99999",
            "ftp://h:1",
            "http://h:1/path",
            "http://h:1?q",
            "http://h:1#f",
            "http://a:1,http://b:1",
            "unix:/run/etcd",
        ] {
            let error = parse(&[text], false).unwrap_err();
            assert!(error.starts_with(&format!("`{text}` is not")), "{error}");
        }
        assert_eq!(parse(&[], false).unwrap_err(), "no etcd endpoint is given");
    }

    #[test]
    fn user_info_is_refused_without_telling_it() {
        let error = parse(&["http://root:secret@h:2379"], false).unwrap_err();
        assert!(error.contains("`h:2379`") && !error.contains("secret"), "{error}");
        let config = EtcdConfig::default().with_credentials(Credentials::new("u", "secret"));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[cfg(feature = "etcd-tls")]
    #[test]
    fn endpoints_are_all_https_or_none_is() {
        assert_eq!(parse(&["https://a:1", "b:2"], false).unwrap(), ["https://a:1", "https://b:2"]);
        assert_eq!(parse(&["b:2"], true).unwrap(), ["https://b:2"]);
        let error = parse(&["https://a:1", "http://b:2"], false).unwrap_err();
        assert!(error.contains("`http://b:2` is not https"), "{error}");
        parse(&["http://b:2"], true).unwrap_err();
    }

    #[cfg(not(feature = "etcd-tls"))]
    #[test]
    fn an_https_endpoint_needs_the_feature() {
        let error = parse(&["http://a:1", "HTTPS://b:2"], false).unwrap_err();
        assert!(error.contains("`HTTPS://b:2`") && error.contains("etcd-tls"), "{error}");
    }
}
