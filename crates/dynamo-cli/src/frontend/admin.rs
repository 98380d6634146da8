//! The admin port: where operators are listened to, and who may read its pages.

use std::net::IpAddr;
use std::path::PathBuf;

use dynamo_http::{AdminAccess, AdminKey, ProgramProblems};

use crate::failure::Failure;
use crate::key_file;
use crate::settings::given::{Origin, Value};
use crate::settings::table::Listening;

/// The settings of the admin port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admin {
    pub(crate) host: String,
    pub(crate) port: u16,
    key_file: Option<PathBuf>,
    open_metrics: bool,
    hosts: Vec<String>,
}

impl Admin {
    /// What was given about the admin port; `None` if there is none. Images set the host for frontends
    /// without an admin port as well.
    ///
    /// # Errors
    ///
    /// When something is said of an admin port that does not exist.
    pub(crate) fn of(
        host: Value<String>,
        port: Option<u16>,
        key_file: Value<Option<PathBuf>>,
        open_metrics: &Value<bool>,
        hosts: Value<Vec<String>>,
    ) -> Result<Option<Self>, Failure> {
        let Some(port) = port else {
            let lonely = [
                (host.origin == Origin::Flag).then_some(host.setting),
                key_file.is_some().then_some(key_file.setting),
                (**open_metrics).then_some(open_metrics.setting),
                (!hosts.is_empty()).then_some(hosts.setting),
            ];
            return match lonely.into_iter().flatten().next() {
                None => Ok(None),
                Some(setting) => Err(Failure::usage(format!(
                    "{} needs --admin-port: without it there is no admin port",
                    setting.label()
                ))),
            };
        };
        Ok(Some(Self {
            host: host.take(),
            port,
            key_file: key_file.take(),
            open_metrics: **open_metrics,
            hosts: hosts.take(),
        }))
    }

    /// Who may read the pages of the admin port that listens at an address. The file of the key is
    /// followed from now on; a change of it that cannot be used is among the `problems`.
    ///
    /// # Errors
    ///
    /// When the file holds no key.
    pub(super) async fn access(
        self,
        address: IpAddr,
        problems: ProgramProblems,
    ) -> Result<AdminAccess, Failure> {
        let access = AdminAccess::new(address).with_open_metrics(self.open_metrics);
        let access = access.with_hosts(self.hosts);
        let Some(path) = self.key_file else { return Ok(access) };
        let key = AdminKey::default();
        let of_file = key.clone();
        let take_up = move |text: &str| of_file.set(text);
        tokio::spawn(key_file::follow(path, Listening::admin_key_file, problems, take_up).await?);
        Ok(access.with_key(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::FRONTEND;

    fn admin(arguments: &[&str], variables: [&str; 2]) -> Result<Option<Admin>, String> {
        let [host, port] = variables;
        let variables = [("DYN_ADMIN_HOST", host), ("DYN_ADMIN_PORT", port)];
        let given = given(&FRONTEND, arguments, variables)?;
        let settings = super::super::settings::read(&given);
        settings.map(|settings| settings.admin).map_err(|failure| failure.to_string())
    }

    #[test]
    fn there_is_an_admin_port_where_one_is_given_and_it_is_local_unless_told_otherwise() {
        let at = |arguments: &[&str], variables| {
            admin(arguments, variables).map(|admin| admin.map(|admin| (admin.host, admin.port)))
        };
        let some = |host: &str, port| Ok(Some((host.to_owned(), port)));
        let both = ["--admin-host=::", "--admin-port=9"];
        assert_eq!(at(&[], ["", ""]), Ok(None));
        assert_eq!(at(&both[1..], ["", ""]), some("127.0.0.1", 9));
        assert_eq!(at(&both, ["", ""]), some("::", 9));
        assert_eq!(at(&[], ["0.0.0.0", "8"]), some("0.0.0.0", 8));
        assert_eq!(at(&both, ["0.0.0.0", "8"]), some("::", 9));
        // Images set variables that not everyone needs.
        assert_eq!(at(&[], ["0.0.0.0", ""]), Ok(None));
        assert!(at(&both[..1], ["", ""]).is_err());
    }

    #[test]
    fn what_is_said_of_an_admin_port_needs_one() {
        for flag in
            ["--admin-key-file=/key", "--admin-metrics-open", "--admin-allowed-host=admin.example"]
        {
            let message = admin(&[flag], ["", ""]).unwrap_err();
            let name = flag.split('=').next().unwrap();
            assert!(message.starts_with(&format!("{name} needs --admin-port")), "{message}");
            assert!(admin(&[flag, "--admin-port=9"], ["", ""]).is_ok());
        }
    }
}
