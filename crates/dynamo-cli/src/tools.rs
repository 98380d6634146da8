//! What every program can do beside its work: completions, a man page, and its configuration file
//! checked, shown and described.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use serde_json::{Map, Value, json};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::frontend;
use crate::import::{self, Translated};
use crate::logging;
use crate::program::{self, Main};
use crate::settings::Setting;
use crate::settings::file::ConfigFile;
use crate::settings::given::{Given, Origin, is_hidden};
use crate::settings::table::{CONFIG, MODELS_SECTION, Program};

const SHELL: &str = "SHELL";
const FILE: &str = "FILE";
const FROM: &str = "FROM";

/// The subcommands of a program.
pub(crate) fn commands(program: &'static Program) -> Vec<Command> {
    let shell = Arg::new(SHELL).required(true).value_parser(value_parser!(Shell));
    let mut commands = vec![
        Command::new("completions")
            .about("Prints the completions of this program for a shell")
            .arg(shell.help("The shell")),
        Command::new("man").about("Prints the man page of this program, as roff"),
    ];
    if has_file(program) {
        let file = Arg::new(FILE).required(true).value_parser(value_parser!(PathBuf));
        let print = program::command(program).name("print");
        let import = Command::new("import")
            .about("Translates the file of another gateway, and tells on stderr what it could not")
            .arg(
                Arg::new(FROM)
                    .long("from")
                    .value_name("GATEWAY")
                    .required(true)
                    .value_parser(["litellm"])
                    .help("The gateway whose file it is"),
            )
            .arg(file.clone().help("The file"));
        commands.push(
            Command::new("config")
                .about("Checks, shows or describes the configuration file")
                .subcommand_required(true)
                .disable_help_subcommand(true)
                .subcommand(
                    Command::new("check")
                        .about("Says what is wrong with a file, with the line")
                        .arg(file.help("The file")),
                )
                .subcommand(
                    print
                        .about("Prints the settings that are in force, and where each comes from")
                        .override_usage(format!("{} config print [OPTIONS]", program.name)),
                )
                .subcommand(
                    Command::new("schema")
                        .about("Prints the JSON schema of the file, which editors understand"),
                )
                .subcommands(program.sections.contains(&MODELS_SECTION).then_some(import)),
        );
    }
    commands
}

fn has_file(program: &Program) -> bool {
    program.settings().any(|setting| setting.name == CONFIG.name)
}

/// Runs one of the [`commands`].
///
/// # Errors
///
/// When the configuration is invalid, or when nothing can be printed.
pub(crate) fn run(
    main: &Main,
    name: &str,
    flags: &ArgMatches,
    environment: Environment,
) -> Result<ExitCode, Failure> {
    let text = match (name, flags.subcommand()) {
        ("completions", _) => completions(main, flags.get_one::<Shell>(SHELL))?,
        ("man", _) => man(main)?,
        (_, Some(("check", flags))) => check(main, flags, &environment)?,
        (_, Some(("import", flags))) => import(main, flags, environment)?,
        (_, Some(("print", flags))) => {
            let given = program::given(main.program, flags.clone(), environment)?;
            (main.check)(&given)?;
            settings(main.program, &given)
        }
        _ => format!("{:#}\n", schema(main.program)),
    };
    program::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn completions(main: &Main, shell: Option<&Shell>) -> Result<String, Failure> {
    let mut script = Vec::new();
    if let Some(shell) = shell {
        clap_complete::generate(*shell, &mut main.command(), main.program.name, &mut script);
    }
    text(script)
}

fn man(main: &Main) -> Result<String, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(main.command())
        .render(&mut page)
        .context("cannot write the page")
        .map_err(Failure::Running)?;
    text(page)
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).context("it is no text").map_err(Failure::Running)
}

fn check(main: &Main, flags: &ArgMatches, environment: &Environment) -> Result<String, Failure> {
    let Some(path) = flags.get_one::<PathBuf>(FILE) else { return Ok(String::new()) };
    let file = ConfigFile::read(path, main.program, environment)?;
    judge(main, file)?;
    Ok(format!("{}: it can be used\n", path.display()))
}

/// Judges a file by itself: flags and variables of the service are not known here.
fn judge(main: &Main, file: ConfigFile) -> Result<(), Failure> {
    let nothing = program::command(main.program)
        .try_get_matches_from([main.program.name])
        .map_err(|error| Failure::Running(error.into()))?;
    let given = Given::new(nothing, Environment::default()).with_file(file);
    (main.check)(&given)
}

/// Translates a file. What is printed is a file that `check` takes, once the variables are set that
/// it names.
fn import(main: &Main, flags: &ArgMatches, environment: Environment) -> Result<String, Failure> {
    let Some(path) = flags.get_one::<PathBuf>(FILE) else { return Ok(String::new()) };
    let Translated { text, left, variables } = import::litellm(path)?;
    let with = |all: Environment, name: &String| all.with(name, import::PLACEHOLDER);
    let environment = variables.iter().fold(environment, with);
    let made = Path::new("the translation");
    judge(main, ConfigFile::parse(made, &text, main.program, &environment)?)?;
    if !left.is_empty() {
        logging::last_line(&left.join("\n"));
    }
    Ok(text)
}

/// The settings in force, as a configuration file with the source of each.
fn settings(program: &Program, given: &Given) -> String {
    let mut page = String::new();
    for group in program.groups {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "# {}", group.title);
        for setting in group.settings.iter().filter(|setting| setting.name != CONFIG.name) {
            let _ = writeln!(page, "{}", line(setting, given));
        }
        page.push('\n');
    }
    let file = given.file.as_ref();
    for name in program.sections {
        if let Some((file, section)) = file.and_then(|file| Some((file, file.section(name)?))) {
            let _ = writeln!(page, "# {name}: as in {}", file.at(section.line));
        }
    }
    page.truncate(page.trim_end().len());
    page + "\n"
}

fn line(setting: &Setting, given: &Given) -> String {
    let name = setting.name;
    let Some((origin, texts)) = given.texts(setting) else {
        return format!("# {name}: (unset)");
    };
    let (from, texts): (_, Vec<String>) = match (origin, &given.file) {
        (Origin::File(line), Some(file)) => {
            let raw = file.setting(setting).map(|written| written.raw.clone());
            (file.at(line), raw.unwrap_or_default())
        }
        _ => {
            let escaped = |text: &OsStr| text.to_string_lossy().replace('$', "$$");
            let from = match origin {
                Origin::Flag => setting.flag().unwrap_or_default(),
                Origin::Variable(name) => name.to_owned(),
                _ => "default".to_owned(),
            };
            (from, texts.iter().map(|text| escaped(text)).collect())
        }
    };
    if texts.iter().any(|text| is_hidden(setting, text)) {
        return format!("# {name}: (not shown)  # {from}");
    }
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    let value = if setting.is_list() { format!("[{}]", texts.join(", ")) } else { texts.concat() };
    format!("{name}: {value}  # {from}")
}

/// A text as YAML has it.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

/// The JSON schema of a program's configuration file.
pub(crate) fn schema(program: &Program) -> Value {
    let mut fields = Map::new();
    for setting in program.settings() {
        if !setting.is_secret && setting.name != CONFIG.name {
            fields.insert(setting.name.to_owned(), field(setting));
        }
    }
    for section in program.sections {
        if let Some(schema) = frontend::section_schema(section) {
            fields.insert((*section).to_owned(), schema);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Configuration file of {}", program.name),
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
    })
}

fn field(setting: &Setting) -> Value {
    let mut schema = json!({"anyOf": [(setting.schema)(), {"type": "null"}]});
    schema["description"] = setting.meaning().into();
    if let Some(default) = setting.default {
        schema["default"] = serde_json::from_str(default).unwrap_or_else(|_| default.into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::FRONTEND;
    use crate::{frontend, models, worker, worker_config};

    const MAINS: [&Main; 4] = [&frontend::MAIN, &worker::MAIN, &worker_config::MAIN, &models::MAIN];

    #[test]
    fn every_program_has_completions_and_a_man_page_with_all_its_flags() {
        for main in MAINS {
            main.command().debug_assert();
            let script = completions(main, Some(&Shell::Bash)).unwrap();
            let page = man(main).unwrap().replace("\\-", "-");
            for flag in main.program.settings().filter_map(Setting::flag) {
                assert!(script.contains(&flag), "{flag}");
                assert!(page.contains(&flag), "{flag}");
            }
        }
    }

    #[test]
    fn the_settings_that_are_shown_are_a_file_that_says_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.yaml");
        std::fs::write(&path, "hold: ${HOLD}\nworker_network: [192.0.2.0/24, 'x y']\n").unwrap();
        let flags = ["--config", path.to_str().unwrap(), "--http-host", "a$b", "--all-namespaces"];
        let variables = [("HOLD", "5"), ("ETCD_AUTH_PASSWORD", "hunter2"), ("DYN_HTTP_PORT", "81")];
        let first = given(&FRONTEND, &flags, variables).unwrap();
        let shown = settings(&FRONTEND, &first);
        let at = |line| format!("{}:{line}", path.display());
        for expected in [
            format!("\nhold: \"${{HOLD}}\"  # {}\n", at(1)),
            format!("\nworker_network: [192.0.2.0/24, \"x y\"]  # {}\n", at(2)),
            "\nhttp_host: \"a$$b\"  # --http-host\n".to_owned(),
            "\nall_namespaces: true  # --all-namespaces\n".to_owned(),
            "\nhttp_port: 81  # DYN_HTTP_PORT\n".to_owned(),
            "\nadmin_host: 127.0.0.1  # default\n".to_owned(),
            "\n# admin_port: (unset)\n".to_owned(),
            "\n# etcd_password: (not shown)  # ETCD_AUTH_PASSWORD\n".to_owned(),
        ] {
            assert!(shown.contains(&expected), "{expected}\n{shown}");
        }
        assert!(!shown.contains("hunter2"));

        let again = directory.path().join("again.yaml");
        std::fs::write(&again, &shown).unwrap();
        let flags = ["--config", again.to_str().unwrap()];
        let second = given(&FRONTEND, &flags, [("HOLD", "5")]).unwrap();
        for setting in FRONTEND.settings() {
            if setting.is_secret || setting.name == CONFIG.name {
                continue;
            }
            let of = |given: &Given| given.texts(setting).map(|(_, texts)| texts);
            assert_eq!(of(&second), of(&first), "{}", setting.name);
        }
    }

    #[test]
    fn the_schema_has_every_setting_but_secrets_and_no_other_field() {
        let schema = schema(&FRONTEND);
        let fields = schema["properties"].as_object().unwrap();
        assert!(["http_port", "keys", "models"].iter().all(|field| fields.contains_key(*field)));
        assert!(!fields.contains_key("etcd_password") && !fields.contains_key("config"));
        assert_eq!(fields["http_port"]["default"], 8000);
        assert_eq!(schema["additionalProperties"], false);
    }
}
