//! Shared by all programs: parse the flags, run, and report a failure in one line.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::environment::Environment;
use crate::failure::{Failure, one_line};
use crate::logging::{self, Logging};
use crate::settings::file::ConfigFile;
use crate::settings::given::{COMMAND, Given, OPERAND, Value};
use crate::settings::strangers;
use crate::settings::table::{CONFIG, Config, Logs, Program, QuietLogs, instead_of};
use crate::settings::value::YesNo;
use crate::tools;
use crate::version;

const HOW_SETTINGS_RANK: &str = "A flag wins over its variable, a variable over the configuration \
                                 file, and the file over the default. A blank variable counts as \
                                 unset.";

/// Behind or before `--version`, asks for more.
const VERBOSE: &str = "--verbose";

/// A program, and what it does.
#[derive(Debug)]
pub(crate) struct Main {
    pub(crate) program: &'static Program,
    pub(crate) run: Run,
    /// Reads all that it was given, and does nothing with it.
    pub(crate) check: fn(&Given) -> Result<(), Failure>,
    /// What it can do beside; each name begins with the program's own.
    pub(crate) subcommands: &'static [(&'static Program, Run)],
}

/// What a program does with the settings that it was given.
pub(crate) type Run = fn(&Given) -> Result<ExitCode, Failure>;

impl Main {
    /// The command line, with that of every subcommand.
    pub(crate) fn command(&self) -> Command {
        let beside = self.subcommands.iter().map(|(program, _)| {
            let name = program.name.rsplit(' ').next().unwrap_or_default();
            command(program).name(name)
        });
        let has_verbs = self.program.has_verbs;
        command(self.program)
            .args_conflicts_with_subcommands(!has_verbs)
            .subcommand_required(has_verbs)
            .disable_help_subcommand(true)
            .subcommands(beside)
            .subcommands(tools::commands(self.program))
    }
}

/// Runs a program to its end, with the arguments of the process.
pub(crate) fn run(main: &Main) -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let ended = dispatch(main, &arguments, Environment::of_process());
    ended.unwrap_or_else(|failure| {
        logging::last_line(&format!("error: {failure}"));
        failure.exit_code()
    })
}

fn dispatch(
    main: &Main,
    arguments: &[OsString],
    environment: Environment,
) -> Result<ExitCode, Failure> {
    let flags = match parse(main.command(), arguments)? {
        Parsed::Flags(flags) => flags,
        Parsed::Help(text) => return print(&text).map(|()| ExitCode::SUCCESS),
    };
    let Some((name, of_subcommand)) = flags.subcommand() else {
        return (main.run)(&given(main.program, flags, environment)?);
    };
    let is_named = |program: &Program| program.name.rsplit(' ').next() == Some(name);
    match main.subcommands.iter().find(|(program, _)| is_named(program)) {
        Some((program, run)) => run(&given(program, of_subcommand.clone(), environment)?),
        None => tools::run(main, name, of_subcommand, environment),
    }
}

/// What a program was given, with the configuration file that a flag or a variable names.
///
/// # Errors
///
/// When the file cannot be read or is invalid.
pub(crate) fn given(
    program: &Program,
    flags: ArgMatches,
    environment: Environment,
) -> Result<Given, Failure> {
    let given = Given::new(flags, environment);
    if !program.settings().any(|setting| setting.name == CONFIG.name) {
        return Ok(given);
    }
    match Config::read(&given)?.config.take() {
        Some(path) => {
            let file = ConfigFile::read(&path, program, &given.environment)?;
            Ok(given.with_file(file))
        }
        None => Ok(given),
    }
}

/// Starts logging, and tells which variables may be misspelt.
///
/// # Errors
///
/// When a variable of the logs is invalid.
pub(crate) fn start(given: &Given) -> Result<Logging, Failure> {
    let logs = Logs::read(given)?;
    begin(given, &logs.log, *logs.logging_jsonl)
}

/// The same for a program that one person runs and reads: by default it tells only what is odd.
///
/// # Errors
///
/// When a variable of the logs is invalid.
pub(crate) fn start_quiet(given: &Given) -> Result<Logging, Failure> {
    let logs = QuietLogs::read(given)?;
    begin(given, &logs.log, *logs.logging_jsonl)
}

fn begin(given: &Given, log: &Value<String>, json: YesNo) -> Result<Logging, Failure> {
    let logging = logging::start(log, json)?;
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
enum Parsed {
    /// To do the work, with these flags.
    Flags(ArgMatches),
    /// To print this text: the help, or the version.
    Help(String),
}

/// Parses a command line, whose first argument is the program's name.
fn parse(command: Command, arguments: &[OsString]) -> Result<Parsed, Failure> {
    match command.try_get_matches_from(arguments) {
        Ok(flags) => Ok(Parsed::Flags(flags)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Parsed::Help(error.render().to_string())),
            // clap ends at `--version`, whatever else is given.
            ErrorKind::DisplayVersion => {
                let mut told = error.render().to_string();
                if arguments.iter().any(|argument| argument == VERBOSE) {
                    told += &version::built_in();
                }
                Ok(Parsed::Help(told))
            }
            _ => Err(Failure::usage(refusal(&error, arguments))),
        },
    }
}

/// The command line of a program.
pub(crate) fn command(program: &Program) -> Command {
    let mut command = Command::new(program.name)
        .about(program.about)
        .version(version::RELEASE)
        .long_version(version::with_build())
        .override_usage(program.usage.join("\n       "))
        .arg(
            Arg::new("verbose")
                .long(VERBOSE.trim_start_matches('-'))
                .action(ArgAction::SetTrue)
                .requires("version")
                .help("With --version, print what is built in as well"),
        );
    for group in program.groups {
        let arguments = group.settings.iter().filter_map(|setting| setting.argument());
        command = command.args(
            arguments.map(|argument| argument.help_heading(group.title).global(program.has_verbs)),
        );
    }
    if let Some(operand) = program.operand {
        let word = Arg::new(OPERAND).value_name(operand.name).help(operand.meaning).required(true);
        command = command.arg(word.value_parser(NonEmptyStringValueParser::new()));
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
        match parse(command(program), &arguments).map_err(|failure| failure.to_string())? {
            Parsed::Flags(flags) => super::given(program, flags, variables.into())
                .map_err(|failure| failure.to_string()),
            Parsed::Help(text) => Err(text),
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
    fn a_meaning_ends_without_a_stop_and_promises_only_what_its_program_does() {
        for program in PROGRAMS {
            let follows_its_file = program.name == FRONTEND.name;
            for setting in program.settings() {
                let (name, meaning) = (setting.name, setting.meaning());
                assert!(!meaning.ends_with('.') && !meaning.contains(".."), "{name}: {meaning}");
                let is_followed = meaning.contains("Followed in the configuration file");
                assert!(follows_its_file || !is_followed, "{} {name}", program.name);
                if name == CONFIG.name {
                    let is_read_again = meaning.contains("Read again when it changes");
                    assert_eq!(is_read_again, follows_its_file, "{}", program.name);
                    let (_, example) = meaning.split_once('`').unwrap();
                    let (example, _) = example.split_once(':').unwrap();
                    let has_it = program.settings().any(|setting| setting.name == example);
                    assert!(has_it, "{}: {example}", program.name);
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
