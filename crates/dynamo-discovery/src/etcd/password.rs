//! A user's password, as it is now: given once, or in a file that is read for every new token.

use std::fmt;
use std::path::PathBuf;

use super::EtcdConfigError;

/// A password, or where it is. It shows itself without the password.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Password {
    /// The password itself.
    Given(String),
    /// A file that holds the password and nothing else; one newline at its end is cut.
    ///
    /// It is read when the store is made, and again whenever etcd is asked for a token: after the
    /// password was changed, the new one is used as soon as the file has it.
    File(PathBuf),
}

impl Password {
    /// Reads the file, if it is in one. It blocks, for a small local file.
    pub(super) fn read(&self) -> Result<String, EtcdConfigError> {
        let path = match self {
            Self::Given(password) => return Ok(password.clone()),
            Self::File(path) => path,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|source| EtcdConfigError::File { path: path.clone(), source })?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let password = line.strip_suffix('\r').unwrap_or(line);
        if password.is_empty() {
            return Err(EtcdConfigError::NoPassword { path: path.clone() });
        }
        Ok(password.to_owned())
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self::Given(password)
    }
}

impl From<&str> for Password {
    fn from(password: &str) -> Self {
        Self::Given(password.to_owned())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.debug_tuple("Given").finish_non_exhaustive(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_file_is_read_anew_each_time_and_loses_one_newline() {
        let path = std::env::temp_dir().join(format!("dyn-password-{:016x}", fastrand::u64(..)));
        let password = Password::File(path.clone());
        for (text, expected) in [
            ("secret", "secret"),
            ("changed\n", "changed"),
            ("of Windows\r\n", "of Windows"),
            (" with blanks \n\n", " with blanks \n"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(password.read().unwrap(), expected);
        }
        std::fs::write(&path, "\n").unwrap();
        let error = password.read().unwrap_err().to_string();
        assert_eq!(error, format!("`{}` holds no password", path.display()));
        std::fs::remove_file(&path).unwrap();
        let error = password.read().unwrap_err().to_string();
        assert_eq!(error, format!("cannot read `{}`", path.display()));
    }

    #[test]
    fn a_password_is_not_shown() {
        let given = format!("{:?}", Password::from("secret"));
        assert_eq!(given, "Given(..)");
        assert!(format!("{:?}", Password::File("/run/password".into())).contains("/run/password"));
    }
}
