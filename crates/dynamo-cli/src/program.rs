//! Shared by all programs: parse the flags, run, and report a failure in one line.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, Command};

use crate::environment::Environment;
use crate::failure::{Failure, one_line};
use crate::logging::{self, Logging};
use crate::settings::given::{COMMAND, Given};
use crate::settings::strangers;
use crate::settings::table::{Program, instead_of};

const HOW_SETTINGS_RANK: &str = "A flag wins over its variable, and a variable over the default. \
                                 A blank variable counts as unset.";

/// Runs a program to its end, with the arguments of the process.
pub(crate) fn run(
    program: &Program,
    main: impl FnOnce(&Given) -> Result<ExitCode, Failure>,
) -> ExitCode {
    run_with(program, std::env::args_os(), main)
}

/// Runs a program to its end. The first argument is its name.
pub(crate) fn run_with(
    program: &Program,
    arguments: impl Iterator<Item = OsString>,
    main: impl FnOnce(&Given) -> Result<ExitCode, Failure>,
) -> ExitCode {
    let arguments: Vec<_> = arguments.collect();
    let parsed = parse(program, &arguments, Environment::of_process());
    let ended = parsed.and_then(|parsed| match parsed {
        Parsed::Given(given) => main(&given),
        Parsed::Help(text) => print(&text).map(|()| ExitCode::SUCCESS),
    });
    ended.unwrap_or_else(|failure| {
        logging::last_line(&format!("error: {failure}"));
        failure.exit_code()
    })
}

/// Starts logging, and tells which variables may be misspelt.
///
/// # Errors
///
/// When a variable of the logs is invalid.
pub(crate) fn start(given: &Given) -> Result<Logging, Failure> {
    let logging = logging::start(given)?;
    strangers::warn_of_misspelt(&given.environment);
    Ok(logging)
}

/// Prints data.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
        .map_err(Failure::Running)
}

/// The request of the command line.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// To do the work, with these settings.
    Given(Given),
    /// To print this text: the help, or the version.
    Help(String),
}

/// Parses a command line, whose first argument is the program's name.
fn parse(
    program: &Program,
    arguments: &[OsString],
    environment: Environment,
) -> Result<Parsed, Failure> {
    match command(program).try_get_matches_from(arguments) {
        Ok(flags) => Ok(Parsed::Given(Given::new(flags, environment))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Help(error.render().to_string()))
            }
            _ => Err(Failure::usage(refusal(&error, arguments))),
        },
    }
}

/// The command line of a program.
pub(crate) fn command(program: &Program) -> Command {
    let mut command = Command::new(program.name)
        .about(program.about)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage(program.usage.join("\n       "));
    for group in program.groups {
        let arguments = group.settings.iter().filter_map(|setting| setting.argument());
        command = command.args(arguments.map(|argument| argument.help_heading(group.title)));
    }
    if let Some(help) = program.command {
        let words = Arg::new(COMMAND).last(true).num_args(1..).help(help);
        command = command.arg(words.value_parser(clap::value_parser!(OsString)));
    }
    let mut variables = String::new();
    for setting in program.settings().filter(|setting| !setting.has_flag) {
        let names: Vec<_> = setting.variables().collect();
        let default = setting.default.map(|default| format!(" [default: {default}]"));
        let default = default.unwrap_or_default();
        variables += &format!("\n  {}: {}{default}", names.join(", else "), setting.meaning());
    }
    if program.settings().all(|setting| setting.variables().next().is_none()) {
        return command;
    }
    command.after_help(format!("Variables without a flag:{variables}\n\n{HOW_SETTINGS_RANK}"))
}

/// What clap says of wrong arguments, in one line and without what may hold a password.
fn refusal(error: &clap::Error, arguments: &[OsString]) -> String {
    let unknown = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    if let Some(instead) = unknown.as_deref().and_then(instead_of) {
        return instead;
    }
    let mut message = error.render().to_string();
    for argument in arguments.iter().map(|argument| argument.to_string_lossy()) {
        let value = argument.split_once('=').map_or(&*argument, |(_, value)| value);
        if value.contains('@') {
            message = message.replace(value, "…");
        }
    }
    in_one_line(&message)
}

/// clap's message on one line, without the usage.
fn in_one_line(message: &str) -> String {
    let mut parts = message.split("\n\n").map(one_line);
    let first = parts.next().unwrap_or_default();
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    for part in parts.filter(|part| part.starts_with("tip: ")) {
        line.push_str("; ");
        line.push_str(&part);
    }
    line.push_str("; try '--help'");
    line
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::table::{FRONTEND, PROGRAMS, WORKER};

    /// What a program is given by these arguments and variables.
    pub(crate) fn given<const N: usize>(
        program: &Program,
        arguments: &[&str],
        variables: [(&str, &str); N],
    ) -> Result<Given, String> {
        let arguments: Vec<_> =
            [&program.name].into_iter().chain(arguments).map(Into::into).collect();
        match parse(program, &arguments, variables.into()) {
            Ok(Parsed::Given(given)) => Ok(given),
            Ok(Parsed::Help(text)) => Err(text),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn every_command_line_is_sound_and_its_help_names_every_variable_and_every_default() {
        for program in PROGRAMS {
            let mut command = command(program);
            command.clone().debug_assert();
            let help = one_line(&command.render_long_help().to_string());
            for setting in program.settings() {
                for text in setting.variables().chain(setting.default) {
                    assert!(help.contains(text), "{}: {text}", program.name);
                }
            }
        }
    }

    #[test]
    fn wrong_usage_is_told_in_one_line_with_a_tip() {
        let arguments = ["--http-prt", "1"];
        assert_eq!(
            given(&FRONTEND, &arguments, []).unwrap_err(),
            "unexpected argument '--http-prt' found; tip: a similar argument exists: '--http-port'; \
             try '--help'"
        );
    }

    #[test]
    fn an_argument_that_may_hold_a_password_is_not_repeated() {
        let secret = "http://user:hunter2 and more@engine:1";
        let with = format!("--echo={secret}");
        for arguments in [&[secret][..], &["--echo", secret], &[&with], &["--url", secret, secret]]
        {
            let message = given(&WORKER, arguments, []).unwrap_err();
            assert!(message.contains("…") && !message.contains("hunter2"), "{message}");
        }
    }
}
