//! What every program does: parse its flags, do its work, say in one line why it could not.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Command, Parser};

use crate::environment::Environment;
use crate::failure::{Failure, one_line};
use crate::settings::table::Program;

const HOW_SETTINGS_RANK: &str = "A flag wins over its variable, and a variable over the default. \
                                 A blank variable counts as unset.";

/// Runs a program to its end, with the arguments of the process.
pub(crate) fn run<Flags: Parser>(
    program: &Program,
    main: impl FnOnce(Flags, &Environment) -> Result<ExitCode, Failure>,
) -> ExitCode {
    run_with(program, std::env::args_os(), main)
}

/// Runs a program to its end. The first argument is its name.
pub(crate) fn run_with<Flags: Parser>(
    program: &Program,
    arguments: impl Iterator<Item = OsString>,
    main: impl FnOnce(Flags, &Environment) -> Result<ExitCode, Failure>,
) -> ExitCode {
    let ended = parse(program, arguments).and_then(|parsed| match parsed {
        Parsed::Flags(flags) => main(flags, &Environment::of_process()),
        Parsed::Help(text) => print(&text).map(|()| ExitCode::SUCCESS),
    });
    ended.unwrap_or_else(|failure| {
        // Where stderr is closed, nobody listens.
        let _ = writeln!(std::io::stderr(), "error: {failure}");
        failure.exit_code()
    })
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

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Parsed<Flags> {
    /// To do the work.
    Flags(Flags),
    /// To see the help, or the version.
    Help(String),
}

/// Parses a command line, the program's name first.
pub(crate) fn parse<Flags: Parser>(
    program: &Program,
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Parsed<Flags>, Failure> {
    let parsed = command::<Flags>(program)
        .try_get_matches_from(arguments)
        .and_then(|matches| Flags::from_arg_matches(&matches));
    match parsed {
        Ok(flags) => Ok(Parsed::Flags(flags)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Help(error.render().to_string()))
            }
            _ => Err(Failure::usage(in_one_line(&error.render().to_string()))),
        },
    }
}

/// The command line that the flags make, described as the table has it.
pub(crate) fn command<Flags: Parser>(program: &Program) -> Command {
    let mut command = Flags::command()
        .name(program.name)
        .about(program.about)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage(program.usage.join("\n       "));
    let mut variables = String::new();
    for group in program.groups {
        for setting in group.settings {
            match (setting.flag, setting.variable) {
                (Some(flag), _) => {
                    command = command.mut_arg(flag.replace('-', "_"), |argument| {
                        let argument = argument.help(setting.help()).help_heading(group.title);
                        match setting.value {
                            Some(value) => argument.value_name(value),
                            None => argument,
                        }
                    });
                }
                (None, Some(variable)) => {
                    let default = setting.default.map(|default| format!(" [default: {default}]"));
                    let default = default.unwrap_or_default();
                    variables.push_str(&format!("\n  {variable}: {}{default}", setting.meaning));
                }
                (None, None) => {}
            }
        }
    }
    if program.groups.iter().flat_map(|group| group.settings).all(|one| one.variable.is_none()) {
        return command;
    }
    command.after_help(format!("Variables without a flag:{variables}\n\n{HOW_SETTINGS_RANK}"))
}

/// clap's message without its usage, which takes many lines.
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
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::table::{FRONTEND, HASH_KEY, WORKER, WORKER_CONFIG};
    use crate::{frontend, hash_key, worker, worker_config};

    fn commands() -> [(Program, Command); 4] {
        [
            (FRONTEND, command::<frontend::Flags>(&FRONTEND)),
            (HASH_KEY, command::<hash_key::Flags>(&HASH_KEY)),
            (WORKER, command::<worker::Flags>(&WORKER)),
            (WORKER_CONFIG, command::<worker_config::Flags>(&WORKER_CONFIG)),
        ]
    }

    #[test]
    fn the_table_and_the_command_lines_have_the_same_flags() {
        for (program, command) in commands() {
            let in_table: BTreeSet<_> = program
                .groups
                .iter()
                .flat_map(|group| group.settings)
                .filter_map(|setting| setting.flag)
                .collect();
            let in_command: BTreeSet<_> = command
                .get_arguments()
                .filter(|argument| !argument.is_hide_set())
                .filter_map(clap::Arg::get_long)
                .collect();
            assert_eq!(in_table, in_command, "{}", program.name);
            command.debug_assert();
        }
    }

    #[test]
    fn help_names_every_variable_and_every_default() {
        for (program, mut command) in commands() {
            let help = one_line(&command.render_long_help().to_string());
            for setting in program.groups.iter().flat_map(|group| group.settings) {
                for text in setting.variable.iter().chain(&setting.default) {
                    assert!(help.contains(text), "{}: {text}", program.name);
                }
            }
        }
    }

    #[test]
    fn wrong_usage_is_told_in_one_line_with_a_tip() {
        let message = |arguments: &[&str]| {
            let arguments = ["dynamo-frontend"].iter().chain(arguments);
            let failure = parse::<frontend::Flags>(&FRONTEND, arguments).unwrap_err();
            assert!(matches!(failure, Failure::Usage(_)));
            failure.to_string()
        };
        assert_eq!(
            message(&["--http-prt", "1"]),
            "unexpected argument '--http-prt' found; tip: a similar argument exists: '--http-port'; \
             try '--help'"
        );
        assert_eq!(
            message(&["--http-port", "eighty"]),
            "invalid value 'eighty' for '--http-port <PORT>': invalid digit found in string; \
             try '--help'"
        );
        assert_eq!(
            message(&["--drain-timeout", "soon"]),
            "invalid value 'soon' for '--drain-timeout <SECONDS>': expected seconds, such as 30 or \
             0.5; try '--help'"
        );
    }
}
