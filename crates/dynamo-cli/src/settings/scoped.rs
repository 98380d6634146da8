//! A value for one namespace, or for all: `[NAMESPACE=]VALUE`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use dynamo_namespace::Namespace;

use super::value::FromText;

/// A value, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scoped<T> {
    /// None: of all namespaces that have none of their own.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) value: T,
}

impl<T: FromText> FromText for Scoped<T> {
    /// What stands before the first `=` is a namespace if it could be one.
    fn from_text(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let named = bytes.iter().position(|byte| *byte == b'=').and_then(|at| {
            // An empty text would be the name of the global namespace.
            let name = std::str::from_utf8(&bytes[..at]).ok().filter(|name| !name.is_empty())?;
            Some((name.parse::<Namespace>().ok()?, OsStr::from_bytes(&bytes[at + 1..])))
        });
        match named {
            Some((namespace, rest)) => {
                Ok(Self { namespace: Some(namespace), value: T::from_text(rest)? })
            }
            None => Ok(Self { namespace: None, value: T::from_text(text)? }),
        }
    }
}

/// The values that all share, and those of each namespace.
pub(crate) fn split<T>(values: Vec<Scoped<T>>) -> (Vec<T>, BTreeMap<Namespace, Vec<T>>) {
    let (mut shared, mut own) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for Scoped { namespace, value } in values {
        match namespace {
            Some(namespace) => own.entry(namespace).or_default().push(value),
            None => shared.push(value),
        }
    }
    (shared, own)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use dynamo_http::Network;

    use super::*;

    #[test]
    fn what_could_be_a_namespace_before_the_first_equals_sign_is_one() {
        for (text, namespace, path) in [
            ("/run/key", None, "/run/key"),
            ("team-b=/run/key", Some("team-b"), "/run/key"),
            ("team-b=run=key", Some("team-b"), "run=key"),
            ("./team-b=key", None, "./team-b=key"),
            ("=key", None, "=key"),
        ] {
            let scoped = Scoped::<PathBuf>::from_text(OsStr::new(text)).unwrap();
            assert_eq!(scoped.namespace.as_ref().map(Namespace::as_str), namespace, "{text}");
            assert_eq!(scoped.value, Path::new(path), "{text}");
        }
        assert!(Scoped::<PathBuf>::from_text(OsStr::new("team-b=")).is_err());
        for text in ["team b=192.0.2.0/24", "team-b=192.0.2", "team-b=", "=192.0.2.0/24"] {
            assert!(Scoped::<Network>::from_text(OsStr::new(text)).is_err(), "{text}");
        }
    }
}
