//! Variables that are set and that no program reads.

use tracing::warn;

use super::table::PROGRAMS;
use crate::environment::Environment;
use crate::failure::Failure;

/// How many letters a name may differ in from one that is read, to be taken for a misspelt one.
const NEAR: usize = 2;

/// Warns once of each variable whose name is nearly that of one that is read.
pub(crate) fn warn_of_misspelt(environment: &Environment) {
    for (variable, near) in misspelt(environment) {
        warn!(variable, "no program reads this variable; is {near} meant?");
    }
}

fn misspelt(environment: &Environment) -> Vec<(&str, &'static str)> {
    let known =
        || PROGRAMS.iter().flat_map(|program| program.settings()).flat_map(|one| one.variables());
    let near = |name: &str| {
        known().find(|known| (1..=NEAR).contains(&strsim::damerau_levenshtein(known, name)))
    };
    let ours = |name: &&str| name.starts_with("DYN_") || name.starts_with("ETCD_");
    let mut found: Vec<_> = environment
        .names()
        .filter(ours)
        .filter(|name| known().all(|known| known != *name))
        .filter_map(|name| Some((name, near(name)?)))
        .collect();
    found.sort_unstable();
    found
}

/// What is said of TLS is never ignored: a listener would be less safe than it was meant to be.
///
/// # Errors
///
/// When a variable of Dynamo's for TLS is set that no program reads.
pub(crate) fn refuse_tls(environment: &Environment) -> Result<(), Failure> {
    let read = |name: &str| {
        let mut settings = PROGRAMS.iter().flat_map(|program| program.settings());
        settings.any(|setting| setting.variables().any(|known| known == name))
    };
    let mut strangers: Vec<_> =
        environment.names().filter(|name| name.starts_with("DYN_TLS_") && !read(name)).collect();
    strangers.sort_unstable();
    match strangers.first() {
        None => Ok(()),
        Some(name) => Err(Failure::usage(format!(
            "{name} is set, and this release does not read it: unset it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_one_of_ours_is_found_and_no_other() {
        let environment = Environment::from([
            ("DYN_NAMESPCE", "a"),
            ("DYN_HTTPPORT", "1"),
            ("ETCD_ENDPOINT", "e"),
            ("DYN_NAMESPACE", "a"),
            ("ETCD_LEASE_TTL", "10"),
            ("DYN_SYSTEM_PORT", "1"),
            ("MY_NAMESPACE", "a"),
            ("DYN_HTTP_HOTS", " "),
        ]);
        assert_eq!(
            misspelt(&environment),
            [
                ("DYN_HTTPPORT", "DYN_HTTP_PORT"),
                ("DYN_NAMESPCE", "DYN_NAMESPACE"),
                ("ETCD_ENDPOINT", "ETCD_ENDPOINTS"),
            ]
        );
    }

    #[test]
    fn a_variable_for_tls_that_is_not_read_is_refused() {
        let refused = |name, value| refuse_tls(&Environment::from([(name, value)]));
        let message = refused("DYN_TLS_MIN_VERSION", "x").unwrap_err().to_string();
        assert!(message.starts_with("DYN_TLS_MIN_VERSION is set"), "{message}");
        assert!(refused("DYN_TLS_MIN_VERSION", " ").is_ok(), "a blank one counts as unset");
        for name in ["DYN_TLS_CERT_PATH", "DYN_TLS_CLIENT_CA_CERT_PATH"] {
            assert!(refused(name, "x").is_ok(), "{name}");
        }
    }
}
