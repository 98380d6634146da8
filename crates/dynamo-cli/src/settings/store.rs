//! Where workers register: which store, and how it is reached.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use dynamo_discovery::{ClientIdentity, Credentials, EtcdConfig, Tls};

use super::value::Expected;
use super::{Setting, table};
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StoreFlags {
    #[arg(long)]
    discovery_backend: Option<Backend>,
    #[arg(long)]
    etcd_endpoints: Option<Endpoints>,
    #[arg(long)]
    etcd_username: Option<String>,
    #[arg(long)]
    etcd_ca: Option<PathBuf>,
    #[arg(long)]
    etcd_client_cert: Option<PathBuf>,
    #[arg(long)]
    etcd_client_key: Option<PathBuf>,
}

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Etcd,
    Memory,
}

impl FromStr for Backend {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "etcd" => Ok(Self::Etcd),
            // `mem` is how newer releases of Dynamo spell it.
            "memory" | "mem" => Ok(Self::Memory),
            _ => Err(Expected("etcd or memory".into())),
        }
    }
}

/// The members of a cluster, between commas; the store checks each.
#[derive(Clone, Debug)]
struct Endpoints(Vec<String>);

impl FromStr for Endpoints {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.split(',').map(|endpoint| endpoint.trim().to_owned()).collect()))
    }
}

/// The store that a program was told to use.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// etcd.
    Etcd {
        config: EtcdConfig,
        /// Whether anyone said so, or it is only the default.
        named: bool,
    },
    /// The memory of this process.
    Memory {
        /// Whether a flag said so, or only a variable.
        by_flag: bool,
    },
}

impl StoreFlags {
    /// # Errors
    ///
    /// When a value is invalid, or comes without the other one of its pair.
    pub(crate) fn resolve(self, environment: &Environment) -> Result<Store, Failure> {
        let by_flag = self.discovery_backend.is_some();
        let backend = table::DISCOVERY_BACKEND.given(self.discovery_backend, environment)?;
        if backend == Some(Backend::Memory) {
            return Ok(Store::Memory { by_flag });
        }
        let endpoints = table::ETCD_ENDPOINTS.given(self.etcd_endpoints, environment)?;
        let ca = table::ETCD_CA.given(self.etcd_ca, environment)?;
        let credentials = pair(
            (table::ETCD_USERNAME, self.etcd_username),
            (table::ETCD_PASSWORD, None),
            environment,
        )?
        .map(|(username, password): (String, String)| Credentials::new(username, password));
        let client = pair(
            (table::ETCD_CLIENT_CERT, self.etcd_client_cert),
            (table::ETCD_CLIENT_KEY, self.etcd_client_key),
            environment,
        )?
        .map(|(cert, key): (PathBuf, PathBuf)| ClientIdentity::new(cert, key));
        let trusted = ca.map(|ca: PathBuf| Tls::new().with_ca(ca));
        let tls = match client {
            Some(client) => Some(trusted.unwrap_or_default().with_client(client)),
            None => trusted,
        };

        let named =
            backend.is_some() || endpoints.is_some() || credentials.is_some() || tls.is_some();
        let Endpoints(endpoints) = table::ETCD_ENDPOINTS.resolve(endpoints, environment)?;
        let config = EtcdConfig::new(endpoints).with_credentials(credentials).with_tls(tls);
        Ok(Store::Etcd { config, named })
    }
}

/// Two settings that make sense only together.
fn pair<T: FromStr<Err: std::fmt::Display>>(
    (first, first_flag): (Setting, Option<T>),
    (second, second_flag): (Setting, Option<T>),
    environment: &Environment,
) -> Result<Option<(T, T)>, Failure> {
    let alone = |given: Setting, missing: Setting| {
        Err(Failure::usage(format!(
            "{} is given without {}: etcd needs both, or neither",
            given.name(),
            missing.name()
        )))
    };
    match (first.given(first_flag, environment)?, second.given(second_flag, environment)?) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        (Some(_), None) => alone(first, second),
        (None, Some(_)) => alone(second, first),
    }
}

/// Whether every member of a cluster is on this machine.
pub(crate) fn is_local(config: &EtcdConfig) -> bool {
    config.endpoints().iter().all(|endpoint| endpoint.parse().is_ok_and(|uri| is_loopback(&uri)))
}

/// Whether a URL's host means the machine that asks.
pub(crate) fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: StoreFlags, environment: impl Into<Environment>) -> Result<Store, String> {
        flags.resolve(&environment.into()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn etcd_on_this_machine_is_the_default() {
        let Ok(Store::Etcd { config, named }) = resolve(StoreFlags::default(), []) else {
            panic!("etcd is the default")
        };
        assert!(!named);
        assert_eq!(config.endpoints(), [EtcdConfig::DEFAULT_ENDPOINT]);
        assert!(is_local(&config));
    }

    #[test]
    fn any_setting_of_etcd_names_it() {
        for (variable, value) in [
            ("ETCD_ENDPOINTS", "http://etcd:2379"),
            ("DYN_DISCOVERY_BACKEND", "etcd"),
            ("ETCD_AUTH_CA", "/ca.pem"),
        ] {
            let store = resolve(StoreFlags::default(), [(variable, value)]);
            assert!(matches!(store, Ok(Store::Etcd { named: true, .. })), "{variable}");
        }
        let lease = resolve(StoreFlags::default(), [("ETCD_LEASE_TTL", "10")]);
        assert!(matches!(lease, Ok(Store::Etcd { named: false, .. })), "workers set it");
    }

    #[test]
    fn endpoints_stand_between_commas() {
        let list = [("ETCD_ENDPOINTS", "http://a:1, b:2")];
        let Ok(Store::Etcd { config, .. }) = resolve(StoreFlags::default(), list) else {
            panic!("etcd was named")
        };
        assert_eq!(config.endpoints(), ["http://a:1", "b:2"]);
        assert!(!is_local(&config));
    }

    #[test]
    fn the_memory_is_chosen_by_flag_or_variable() {
        let flags =
            StoreFlags { discovery_backend: Some(Backend::Memory), ..StoreFlags::default() };
        let by_flag = resolve(flags, [("DYN_DISCOVERY_BACKEND", "etcd")]);
        assert!(matches!(by_flag, Ok(Store::Memory { by_flag: true })));
        let by_variable = resolve(StoreFlags::default(), [("DYN_DISCOVERY_BACKEND", "mem")]);
        assert!(matches!(by_variable, Ok(Store::Memory { by_flag: false })));
        let other = resolve(StoreFlags::default(), [("DYN_DISCOVERY_BACKEND", "kubernetes")]);
        assert_eq!(
            other.unwrap_err(),
            "DYN_DISCOVERY_BACKEND=\"kubernetes\": expected etcd or memory"
        );
    }

    #[test]
    fn half_of_a_pair_is_refused_and_the_other_half_named() {
        for (variable, given, missing) in [
            ("ETCD_AUTH_CLIENT_CERT", "--etcd-client-cert", "--etcd-client-key"),
            ("ETCD_AUTH_CLIENT_KEY", "--etcd-client-key", "--etcd-client-cert"),
            ("ETCD_AUTH_USERNAME", "--etcd-username", "ETCD_AUTH_PASSWORD"),
            ("ETCD_AUTH_PASSWORD", "ETCD_AUTH_PASSWORD", "--etcd-username"),
        ] {
            let message = resolve(StoreFlags::default(), [(variable, "x")]).unwrap_err();
            assert!(message.starts_with(given) && message.contains(missing), "{message}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (url, local) in [
            ("http://localhost:1", true),
            ("localhost:1", true),
            ("http://127.0.0.2", true),
            ("http://[::1]:1", true),
            ("http://[::ffff:127.0.0.1]:1", true),
            ("http://0.0.0.0:1", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), local, "{url}");
        }
    }
}
