//! Who may use a frontend, and where operators look at it.

use std::path::PathBuf;

use clap::Args;

use super::table;
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AccessFlags {
    #[arg(long)]
    api_keys: Option<PathBuf>,
    #[arg(long)]
    worker_api_key_file: Option<PathBuf>,
    #[arg(long)]
    admin_host: Option<String>,
    #[arg(long)]
    admin_port: Option<u16>,
}

/// What was said of access, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AccessSettings {
    /// The file of the keys that clients need, if they need any.
    pub(crate) api_keys: Option<PathBuf>,
    /// The file of the key that workers get, if they get one from us.
    pub(crate) worker_key: Option<PathBuf>,
    /// Where operators are listened to, if apart from clients.
    pub(crate) admin: Option<(String, u16)>,
}

impl AccessFlags {
    /// # Errors
    ///
    /// When something is invalid or does not go together.
    pub(crate) fn resolve(self, environment: &Environment) -> Result<AccessSettings, Failure> {
        let host_by_flag = self.admin_host.is_some();
        let host = table::ADMIN_HOST.resolve(self.admin_host, environment)?;
        let admin = match table::ADMIN_PORT.given(self.admin_port, environment)? {
            Some(port) => Some((host, port)),
            None if host_by_flag => {
                return Err(Failure::usage(
                    "--admin-host needs --admin-port: without it there is no admin port",
                ));
            }
            None => None,
        };
        let Self { api_keys, worker_api_key_file: worker_key, .. } = self;
        Ok(AccessSettings { api_keys, worker_key, admin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_admin_port_where_one_is_given_and_it_is_local_unless_told_otherwise() {
        let admin = |host: Option<&str>, port, environment| {
            let admin_host = host.map(str::to_owned);
            let flags = AccessFlags { admin_host, admin_port: port, ..AccessFlags::default() };
            flags.resolve(&environment).map(|settings| settings.admin)
        };
        let none = Environment::default;
        let some = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(admin(None, None, none()).unwrap(), None);
        assert_eq!(admin(None, Some(9), none()).unwrap(), some("127.0.0.1", 9));
        assert_eq!(admin(Some("::"), Some(9), none()).unwrap(), some("::", 9));
        let variables =
            || Environment::from([("DYN_ADMIN_HOST", "0.0.0.0"), ("DYN_ADMIN_PORT", "8")]);
        assert_eq!(admin(None, None, variables()).unwrap(), some("0.0.0.0", 8));
        assert_eq!(admin(Some("::"), Some(9), variables()).unwrap(), some("::", 9));
        // Images set variables that not everyone needs.
        let host = Environment::from([("DYN_ADMIN_HOST", "0.0.0.0")]);
        assert_eq!(admin(None, None, host).unwrap(), None);
        assert!(admin(Some("::"), None, none()).is_err());
    }
}
