//! What a program was given: each value is read from the first source that has it.

use std::ffi::{OsStr, OsString};
use std::ops::Deref;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Setting;
use super::file::ConfigFile;
use super::table::Program;
use super::value::{Refused, Shape};
use crate::environment::Environment;
use crate::failure::Failure;

/// The id of the arguments after `--`.
pub(crate) const COMMAND: &str = "COMMAND";

/// The id of a subcommand's operand.
pub(crate) const OPERAND: &str = "OPERAND";

/// The sources of a program's settings.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    flags: ArgMatches,
    pub(crate) environment: Environment,
    pub(crate) file: Option<ConfigFile>,
}

/// Where a value comes from, the source that wins first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    /// The variable of this name.
    Variable(&'static str),
    /// This line of the configuration file.
    File(u64),
    /// No source has a value.
    Default,
}

impl Origin {
    /// The place of the source among the sources; the lowest wins.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Flag => 0,
            Self::Variable(_) => 1,
            Self::File(_) => 2,
            Self::Default => 3,
        }
    }
}

/// A value, where it comes from, and what it is a value of.
pub(crate) struct Value<T> {
    value: T,
    pub(crate) origin: Origin,
    pub(crate) setting: &'static Setting,
}

impl Given {
    pub(crate) fn new(flags: ArgMatches, environment: Environment) -> Self {
        Self { flags, environment, file: None }
    }

    /// The same flags and variables with a configuration file, or with another one.
    pub(crate) fn with_file(&self, file: ConfigFile) -> Self {
        let (flags, environment) = (self.flags.clone(), self.environment.clone());
        Self { flags, environment, file: Some(file) }
    }

    /// A setting's value.
    ///
    /// # Errors
    ///
    /// When the source that wins holds no valid one.
    pub(crate) fn value<T: Shape>(&self, setting: &'static Setting) -> Result<Value<T>, Failure> {
        let (origin, texts) = self.texts(setting).unwrap_or((Origin::Default, Vec::new()));
        let value = T::read(&texts).map_err(|refused| match (origin, &self.file) {
            (Origin::File(line), Some(file)) => refuse_line(setting, &file.at(line), &refused),
            _ => refuse(setting, origin, &refused),
        })?;
        Ok(Value { value, origin, setting })
    }

    /// The texts of the first source that has any. A blank variable counts as unset.
    pub(crate) fn texts(&self, setting: &Setting) -> Option<(Origin, Vec<OsString>)> {
        let by_flag = || {
            let source = setting.has_flag.then(|| self.flags.value_source(setting.name))?;
            let texts = self.flags.get_raw(setting.name)?.map(OsStr::to_owned).collect();
            (source == Some(ValueSource::CommandLine)).then_some((Origin::Flag, texts))
        };
        let by_variable = || {
            setting.variables().find_map(|name| {
                Some((Origin::Variable(name), vec![self.environment.get(name)?.into()]))
            })
        };
        let by_file = || {
            let written = self.file.as_ref()?.setting(setting)?;
            Some((Origin::File(written.line), written.texts.clone()))
        };
        let by_default = || Some((Origin::Default, vec![setting.default?.into()]));
        by_flag().or_else(by_variable).or_else(by_file).or_else(by_default)
    }

    /// How a message calls a setting by the source that has it: `http_port (f.yaml:4)`, or by its flag
    /// and variable.
    pub(crate) fn source(&self, setting: &Setting) -> String {
        match (self.texts(setting), &self.file) {
            (Some((Origin::File(line), _)), Some(file)) => {
                format!("{} ({})", setting.name, file.at(line))
            }
            _ => setting.label(),
        }
    }

    /// The settings of a program whose values differ from those of an earlier time.
    pub(crate) fn changes(&self, earlier: &Self, program: &Program) -> Vec<&'static Setting> {
        let texts = |given: &Self, setting| given.texts(setting).map(|(_, texts)| texts);
        program
            .settings()
            .filter(|setting| texts(self, setting) != texts(earlier, setting))
            .collect()
    }

    /// The operand; empty for a program that has none.
    pub(crate) fn operand(&self) -> &str {
        let operand = self.flags.try_get_one::<String>(OPERAND);
        operand.ok().flatten().map(String::as_str).unwrap_or_default()
    }

    /// The arguments after `--`.
    pub(crate) fn command(&self) -> Vec<OsString> {
        let command = self.flags.get_many::<OsString>(COMMAND);
        command.into_iter().flatten().cloned().collect()
    }
}

/// Whether a value may hold a password, so that it is not shown.
pub(crate) fn is_hidden(setting: &Setting, text: &str) -> bool {
    setting.is_secret || text.contains('@')
}

/// What is said of a value of the configuration file that is none.
fn refuse_line(setting: &Setting, at: &str, Refused { text, why }: &Refused<'_>) -> Failure {
    let text = text.to_string_lossy();
    let name = setting.name;
    Failure::usage(if is_hidden(setting, &text) {
        format!("{at}: {name}: {why}")
    } else {
        format!("{at}: {name}: {text:?}: {why}")
    })
}

/// What is said of a value that is none. One that may hold a password is not repeated.
fn refuse(setting: &Setting, origin: Origin, Refused { text, why }: &Refused<'_>) -> Failure {
    let text = text.to_string_lossy();
    let is_hidden = is_hidden(setting, &text);
    let placeholder = setting.placeholder.unwrap_or_default();
    Failure::usage(match (origin, setting.flag()) {
        (Origin::Flag, Some(flag)) if is_hidden => {
            format!("invalid value for '{flag} <{placeholder}>': {why}; try '--help'")
        }
        (Origin::Flag, Some(flag)) => {
            format!("invalid value '{text}' for '{flag} <{placeholder}>': {why}; try '--help'")
        }
        (Origin::Variable(name), _) if is_hidden => format!("{name}: {why}"),
        (Origin::Variable(name), _) if text.starts_with("tcp://") => format!(
            "{name}={text:?}: {why}; Kubernetes sets such a value for a service of that name, \
             unless the pod has enableServiceLinks: false"
        ),
        (Origin::Variable(name), _) => format!("{name}={text:?}: {why}"),
        _ => format!("{}: {why}", setting.label()),
    })
}

impl<T> Value<T> {
    pub(crate) fn take(self) -> T {
        self.value
    }

    /// How a message calls the source: `--namespace`, or `DYN_NAMESPACE`.
    pub(crate) fn source(&self) -> String {
        match (self.origin, self.setting.flag()) {
            (Origin::Flag, Some(flag)) => flag,
            (Origin::Variable(name), _) => name.to_owned(),
            (Origin::File(line), _) => {
                format!("{} in line {line} of the configuration file", self.setting.name)
            }
            _ => self.setting.label(),
        }
    }

    pub(crate) fn is_given(&self) -> bool {
        self.origin != Origin::Default
    }
}

impl<T> Deref for Value<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{FRONTEND, Limits, Listening, Logs, Store, Workers};
    use super::*;
    use crate::program::command;
    use crate::program::tests::given;

    const NONE: [(&str, &str); 0] = [];

    #[test]
    fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
        let port = |arguments: &[&str], variables: [(&str, &str); 1]| {
            let given = given(&FRONTEND, arguments, variables).unwrap();
            let port = Listening::read(&given).unwrap().http_port;
            (*port, port.origin, port.source())
        };
        let flag = ["--http-port", "82"];
        let variable = Origin::Variable("DYN_HTTP_PORT");
        assert_eq!(
            port(&flag, [("DYN_HTTP_PORT", "81")]),
            (82, Origin::Flag, "--http-port".into())
        );
        assert_eq!(port(&[], [("DYN_HTTP_PORT", "81")]), (81, variable, "DYN_HTTP_PORT".into()));
        for unset in [("DYN_HTTP_PORT", " "), ("OTHER", "1")] {
            let label = "--http-port (DYN_HTTP_PORT)".to_owned();
            assert_eq!(port(&[], [unset]), (8000, Origin::Default, label));
        }
        assert_eq!(port(&flag, [("DYN_HTTP_PORT", "none")]).0, 82, "the flag wins unread");
    }

    #[test]
    fn of_two_variables_the_first_wins_unless_it_is_blank() {
        for (ours, expected) in [("warn", "DYN_LOG"), (" ", "RUST_LOG")] {
            let given = given(&FRONTEND, &[], [("DYN_LOG", ours), ("RUST_LOG", "debug")]).unwrap();
            assert_eq!(Logs::read(&given).unwrap().log.origin, Origin::Variable(expected));
        }
    }

    #[test]
    fn a_setting_is_called_by_its_line_where_the_file_has_it() {
        let (path, environment) = (std::path::Path::new("f.yaml"), Environment::default());
        let file = || ConfigFile::parse(path, "\nhttp_port: 80", &FRONTEND, &environment).unwrap();
        for (arguments, expected) in [
            (&[][..], "http_port (f.yaml:2)"),
            (&["--http-port", "81"], "--http-port (DYN_HTTP_PORT)"),
        ] {
            let given = given(&FRONTEND, arguments, NONE).unwrap().with_file(file());
            assert_eq!(given.source(Listening::http_port), expected);
        }
    }

    #[test]
    fn an_invalid_value_is_named_with_its_source() {
        for (arguments, variable, expected) in [
            (
                &[][..],
                "eighty",
                "DYN_HTTP_PORT=\"eighty\": expected a whole number from 0 to 65535",
            ),
            (
                &["--http-port", "x"],
                "1",
                "invalid value 'x' for '--http-port <PORT>': expected a whole number from 0 \
                 to 65535; try '--help'",
            ),
            (&[], "273000", "DYN_HTTP_PORT=\"273000\": expected a whole number from 0 to 65535"),
        ] {
            let given = given(&FRONTEND, arguments, [("DYN_HTTP_PORT", variable)]).unwrap();
            let failure = Listening::read(&given).err().unwrap();
            assert_eq!(failure.to_string(), expected);
            assert!(matches!(failure, Failure::Usage(_)));
        }
    }

    #[test]
    fn a_value_that_kubernetes_sets_for_a_service_is_told_with_the_way_out() {
        let variable = [("DYN_HTTP_PORT", "tcp://192.0.2.1:8000")];
        let given = given(&FRONTEND, &[], variable).unwrap();
        let message = Listening::read(&given).err().unwrap().to_string();
        assert!(message.starts_with("DYN_HTTP_PORT=\"tcp://"), "{message}");
        assert!(message.contains("enableServiceLinks: false"), "{message}");
    }

    #[test]
    fn a_value_that_may_hold_a_password_is_not_repeated() {
        let flags = ["--etcd-endpoints", "http://root:hunter2@e:1"];
        for given in [
            given(&FRONTEND, &flags, NONE),
            given(&FRONTEND, &[], [("ETCD_ENDPOINTS", "root:hunter2@e")]),
        ] {
            let message = Store::read(&given.unwrap()).err().unwrap().to_string();
            assert!(message.contains("has user info"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_file_may_have_any_name_but_an_empty_one() {
        use std::os::unix::ffi::OsStrExt as _;

        let given = |flag: &str, value| {
            let arguments = [OsStr::new("dynamo-frontend"), OsStr::new(flag), value];
            let flags = command(&FRONTEND).try_get_matches_from(arguments).unwrap();
            Given::new(flags, Environment::default())
        };
        let name = OsStr::from_bytes(b"/\xff");
        let file = |value| Workers::read(&given("--state-file", value));
        assert_eq!(file(name).ok().unwrap().state_file.take().unwrap(), name);
        assert!(file(OsStr::new("")).is_err());
        let failure = Limits::read(&given("--http-header-count", name)).err().unwrap();
        assert!(failure.to_string().contains("not UTF-8"), "{failure}");
    }
}
