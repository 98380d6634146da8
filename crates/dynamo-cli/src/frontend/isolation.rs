//! What keeps callers apart in the caches of engines, as it was set.

use std::path::Path;

use anyhow::Context as _;
use dynamo_http::Isolation;

use crate::failure::Failure;
use crate::settings::given::Given;
use crate::settings::table::Isolating;
use crate::settings::value::IsolationMode;

/// Reads the settings, and the secret if there is one.
///
/// # Errors
///
/// When the secret is missing, cannot be read or is too short, or when it is given and nothing says
/// what for.
pub(super) fn read(given: &Given) -> Result<Option<Isolation>, Failure> {
    let Isolating { isolation, cache_salt_secret_file: file } = Isolating::read(given)?;
    let label = file.setting.label();
    if *isolation == IsolationMode::None {
        return match !isolation.is_given() && file.is_some() {
            true => Err(Failure::usage(format!(
                "{} is given, and without {} it does nothing",
                file.source(),
                isolation.setting.label()
            ))),
            false => Ok(None),
        };
    }
    let source = isolation.source();
    let Some(path) = file.take() else {
        return Err(Failure::usage(format!(
            "{source} needs {label}: a file with a secret of at least {} bytes, the same for all \
             frontends",
            Isolation::SHORTEST
        )));
    };
    let keyed = of_file(&path).with_context(|| label).map_err(Failure::Usage)?;
    Ok(Some(match *isolation {
        IsolationMode::BestEffort => keyed.best_effort(),
        IsolationMode::CacheSalt | IsolationMode::None => keyed,
    }))
}

/// The secret is all of the file, but for one line end at its end.
fn of_file(path: &Path) -> anyhow::Result<Isolation> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").filter(|_| bytes.ends_with(b"\r\n")).unwrap_or(secret);
    Isolation::new(secret).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::FRONTEND;

    const SECRET: &str = "a-secret-that-nobody-may-ever-see";

    fn resolve(arguments: &[&str]) -> Result<String, String> {
        let read = read(&given(&FRONTEND, arguments, [("OTHER", "1")])?);
        read.map(|isolation| format!("{isolation:?}")).map_err(|failure| failure.to_string())
    }

    fn with(mode: &str, secret: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), secret).unwrap();
        let path = file.path().to_str().unwrap();
        resolve(&["--isolation", mode, "--cache-salt-secret-file", path])
    }

    #[test]
    fn there_is_none_unless_it_is_asked_for() {
        assert_eq!(resolve(&[]).unwrap(), "None");
        assert_eq!(with("none", SECRET).unwrap(), "None");
        assert_eq!(with("cache_salt", SECRET).unwrap(), "Some(Isolation(cache salt))");
        assert_eq!(with("best_effort", SECRET).unwrap(), "Some(Isolation(best effort))");
    }

    #[test]
    fn it_needs_a_secret_that_is_long_enough_and_no_message_shows_it() {
        let message = resolve(&["--isolation", "cache_salt"]).unwrap_err();
        assert!(message.contains("needs --cache-salt-secret-file"), "{message}");
        for text in [&SECRET[..31], "", "\n", &format!("{}\r\n", &SECRET[..31])] {
            let message = with("best_effort", text).unwrap_err();
            assert!(message.contains("at least 32 bytes"), "{message}");
            assert!(text.trim().is_empty() || !message.contains(text.trim()), "{message}");
        }
        for end in ["", "\n", "\r\n"] {
            assert!(with("cache_salt", &format!("{}{end}", &SECRET[..32])).is_ok(), "{end:?}");
        }
        let absent = ["--isolation", "cache_salt", "--cache-salt-secret-file", "/nowhere/secret"];
        let message = resolve(&absent).unwrap_err();
        assert!(message.contains("cannot read /nowhere/secret"), "{message}");
    }

    #[test]
    fn a_secret_alone_is_refused_since_it_would_keep_nobody_apart() {
        let message = resolve(&["--cache-salt-secret-file", "/nowhere/secret"]).unwrap_err();
        assert!(message.contains("without --isolation it does nothing"), "{message}");
        assert!(
            resolve(&["--isolation", "salt"]).unwrap_err().contains("expected none, cache_salt")
        );
    }
}
