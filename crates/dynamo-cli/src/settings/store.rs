//! Where workers register: which store, and how it is reached.

use std::path::PathBuf;
use std::str::FromStr;

use dynamo_discovery::{ClientIdentity, Credentials, EtcdConfig, NetworkPrefix, Password, Tls};

use super::given::{Given, Origin};
use super::root::Root;
use super::value::{Backend, from_text};
use super::{Value, pair, table};
use crate::certificates::{Place, file};
use crate::failure::Failure;

/// The members of a cluster, between commas; the store checks each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints(pub(crate) Vec<String>);

from_text!(Endpoints);

impl FromStr for Endpoints {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err("it has user info: give the user with --etcd-username, and the password \
                        with ETCD_AUTH_PASSWORD");
        }
        Ok(Self(text.split(',').map(|endpoint| endpoint.trim().to_owned()).collect()))
    }
}

/// The store that a program was told to use.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// etcd.
    Etcd {
        etcd: Box<Etcd>,
        /// Whether anyone said so, or it is only the default.
        named: bool,
    },
    /// The memory of this process.
    Memory {
        /// Whether a flag said so, or only a variable.
        by_flag: bool,
    },
}

/// How etcd is reached.
#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    pub(crate) endpoints: Vec<String>,
    /// Where the keys are.
    pub(crate) root: NetworkPrefix,
    pub(crate) config: EtcdConfig,
    /// The file of the authorities that are trusted in place of the system's.
    ca: Option<PathBuf>,
    /// The file of the certificate that etcd is shown.
    client_cert: Option<PathBuf>,
}

/// # Errors
///
/// When a value is invalid, or comes without the other one of its pair.
pub(crate) fn read(given: &Given) -> Result<Store, Failure> {
    let store = table::Store::read(given)?;
    if *store.discovery_backend == Backend::Memory {
        return Ok(Store::Memory { by_flag: store.discovery_backend.origin == Origin::Flag });
    }
    let named = store.discovery_backend.is_given() || store.etcd_endpoints.is_given();
    let credentials =
        credentials(store.etcd_username, store.etcd_password, store.etcd_password_file)?;
    let client = pair(store.etcd_client_cert, store.etcd_client_key)?;
    let client_cert = client.as_ref().map(|(cert, _): &(PathBuf, PathBuf)| cert.clone());
    let client = client.map(|(cert, key)| ClientIdentity::new(cert, key));
    let ca = store.etcd_ca.take();
    let trusted = ca.clone().map(|ca| Tls::new().with_ca(ca));
    let tls = match client {
        Some(client) => Some(trusted.unwrap_or_default().with_client(client)),
        None => trusted,
    };
    let named = named || credentials.is_some() || tls.is_some();
    let Endpoints(endpoints) = store.etcd_endpoints.take();
    let config = EtcdConfig::new(endpoints.clone()).with_credentials(credentials).with_tls(tls);
    let Root(root) = store.root.take().unwrap_or_default();
    Ok(Store::Etcd { etcd: Box::new(Etcd { endpoints, root, config, ca, client_cert }), named })
}

/// A user with a password, which is given itself or in a file.
fn credentials(
    username: Value<Option<String>>,
    password: Value<Option<String>>,
    file: Value<Option<PathBuf>>,
) -> Result<Option<Credentials>, Failure> {
    if !file.is_given() {
        let pair = pair(username, password)?;
        return Ok(pair.map(|(username, password)| Credentials::new(username, password)));
    }
    if password.is_given() {
        let [one, other] = [file.setting.label(), password.setting.label()];
        return Err(Failure::usage(format!("{one} is given with {other}: leave one of them out")));
    }
    let pair = pair(username, file)?;
    Ok(pair.map(|(username, file)| Credentials::new(username, Password::File(file))))
}

impl Etcd {
    /// The certificates that connections to etcd use. The store reads the files whenever it connects.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = Place> + use<> {
        let authorities = self.ca.clone().map(|path| Place::authorities("etcd_ca", file(path)));
        let client = self.client_cert.clone().map(|path| Place::chain("etcd_client", file(path)));
        authorities.into_iter().chain(client)
    }

    /// Whether every member of the cluster is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.parse().is_ok_and(|uri| is_loopback(&uri)))
    }
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
    use crate::program::tests::given;

    fn resolve<const N: usize>(
        arguments: &[&str],
        variables: [(&str, &str); N],
    ) -> Result<Store, String> {
        let given = given(&table::FRONTEND, arguments, variables)?;
        read(&given).map_err(|failure| failure.to_string())
    }

    #[test]
    fn etcd_on_this_machine_is_the_default() {
        let Ok(Store::Etcd { etcd, named }) = resolve(&[], []) else {
            panic!("etcd is the default")
        };
        assert!(!named);
        assert_eq!(etcd.endpoints, [EtcdConfig::DEFAULT_ENDPOINT]);
        assert!(etcd.is_local());
    }

    #[test]
    fn any_setting_of_etcd_names_it() {
        for (variable, value) in [
            ("ETCD_ENDPOINTS", "http://etcd:2379"),
            ("DYN_DISCOVERY_BACKEND", "etcd"),
            ("ETCD_AUTH_CA", "/ca.pem"),
        ] {
            let store = resolve(&[], [(variable, value)]);
            assert!(matches!(store, Ok(Store::Etcd { named: true, .. })), "{variable}");
        }
        let lease = resolve(&[], [("ETCD_LEASE_TTL", "10")]);
        assert!(matches!(lease, Ok(Store::Etcd { named: false, .. })), "workers set it");
    }

    #[test]
    fn endpoints_stand_between_commas() {
        let list = [("ETCD_ENDPOINTS", "http://a:1, b:2")];
        let Ok(Store::Etcd { etcd, .. }) = resolve(&[], list) else { panic!("etcd was named") };
        assert_eq!(etcd.endpoints, ["http://a:1", "b:2"]);
        assert!(!etcd.is_local());
    }

    #[test]
    fn the_memory_is_chosen_by_flag_or_variable() {
        let flags = ["--discovery-backend", "memory"];
        let by_flag = resolve(&flags, [("DYN_DISCOVERY_BACKEND", "etcd")]);
        assert!(matches!(by_flag, Ok(Store::Memory { by_flag: true })));
        let by_variable = resolve(&[], [("DYN_DISCOVERY_BACKEND", "mem")]);
        assert!(matches!(by_variable, Ok(Store::Memory { by_flag: false })));
        let other = resolve(&[], [("DYN_DISCOVERY_BACKEND", "kubernetes")]);
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
            ("ETCD_AUTH_PASSWORD_FILE", "--etcd-password-file", "--etcd-username"),
        ] {
            let message = resolve(&[], [(variable, "x")]).unwrap_err();
            assert!(message.starts_with(given) && message.contains(missing), "{message}");
        }
    }

    #[test]
    fn a_password_comes_from_a_variable_or_from_a_file_and_not_from_both() {
        let user = ("ETCD_AUTH_USERNAME", "u");
        let file = ["--etcd-password-file", "/run/password"];
        let Ok(Store::Etcd { etcd, named: true }) = resolve(&file, [user]) else {
            panic!("a user with a password is enough")
        };
        assert!(format!("{:?}", etcd.config).contains("\"u\""));
        let both = resolve(&file, [user, ("ETCD_AUTH_PASSWORD", "secret")]).unwrap_err();
        assert_eq!(
            both,
            "--etcd-password-file (ETCD_AUTH_PASSWORD_FILE) is given with ETCD_AUTH_PASSWORD: leave one \
             of them out"
        );
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
