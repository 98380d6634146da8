//! The reference pages, made from the table of settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::settings::Setting;
use crate::settings::table::{FRONTEND, PROGRAMS, Program, WORKER};
use crate::tools;

const NOTE: &str = "<!-- Made by `cargo run -p dynamo-cli --example reference`; change \
                    crates/dynamo-cli/src/settings/table.rs instead. -->";

/// A page of the reference.
#[derive(Clone, Debug)]
pub struct Page {
    /// The file's name in `docs/reference`.
    pub file: &'static str,
    /// The page's text, as Markdown or JSON.
    pub text: String,
}

/// All generated pages.
pub fn pages() -> [Page; 4] {
    let schema = |program| format!("{:#}\n", tools::schema(program));
    [
        Page { file: "cli.md", text: command_line() },
        Page { file: "environment.md", text: environment() },
        Page { file: "frontend.schema.json", text: schema(&FRONTEND) },
        Page { file: "worker.schema.json", text: schema(&WORKER) },
    ]
}

fn command_line() -> String {
    let mut page = format!(
        "{NOTE}\n\n# Command line\n\n\
         A flag wins over its variable, a variable over the [configuration file](config.md), and the \
         file over the default.\n\
         A variable that is empty or blank counts as unset.\n\
         Every program prints its completions with `completions SHELL`, and its man page with \
         `man`.\n\
         Data goes to stdout, logs and errors to stderr.\n\n\
         | exit code | meaning |\n|---|---|\n\
         | 0 | it did what it was asked, or was stopped by SIGTERM or SIGINT |\n\
         | 1 | it failed while it ran; of `dynamo-models doctor` also: it found a fault |\n\
         | 2 | wrong usage or configuration, told in one line |\n\n\
         `dynamo-worker` that runs a COMMAND ends with the exit code of that, a signal counting as \
         128 and its number.\n\
         When it was asked to stop and the engine ended by SIGTERM, that is 0; when the engine ended \
         with 0 though nobody had asked, that is 1.\n"
    );
    for program in PROGRAMS {
        // Writing to a string cannot fail.
        let _ = describe(&mut page, program);
    }
    page
}

fn describe(page: &mut String, program: &Program) -> std::fmt::Result {
    writeln!(page, "\n## {}\n\n{}.\n\n```text", program.name, program.about)?;
    for usage in program.usage {
        writeln!(page, "{usage}")?;
    }
    writeln!(page, "```")?;
    if let Some(operand) = program.operand {
        writeln!(page, "\n`{}`: {}.", operand.name, operand.meaning)?;
    }
    if program.has_verbs {
        writeln!(
            page,
            "\nEach of its subcommands takes the flags below, before its name or after."
        )?;
    }
    for group in program.groups {
        writeln!(page, "\n### {}: {}\n", program.name, group.title.to_lowercase())?;
        writeln!(page, "| flag | variable | default | meaning |\n|---|---|---|---|")?;
        for setting in group.settings {
            let value = setting.placeholder.map(|value| format!(" {value}")).unwrap_or_default();
            let variables: Vec<_> = setting.variables().map(|name| code(Some(name))).collect();
            writeln!(
                page,
                "| {} | {} | {} | {} |",
                code(setting.flag().map(|flag| short(setting) + &flag + &value).as_deref()),
                variables.join(", else "),
                code(setting.default),
                cell(&setting.meaning())
            )?;
        }
    }
    Ok(())
}

fn short(setting: &Setting) -> String {
    setting.short.map(|letter| format!("-{letter}, ")).unwrap_or_default()
}

fn environment() -> String {
    let mut page = format!(
        "{NOTE}\n\n# Environment\n\n\
         A variable stands in for its flag where that is not given.\n\
         One that is empty or blank counts as unset.\n\n\
         | variable | flag | read by | default | meaning |\n|---|---|---|---|---|\n"
    );
    // Sorted by name, with one row for each meaning: `DYN_NAMESPACE` has one meaning for a
    // worker and another for a frontend.
    let mut variables = BTreeMap::<_, (_, Vec<_>)>::new();
    for program in PROGRAMS {
        for setting in program.settings() {
            let mut before = None;
            for variable in setting.variables() {
                let meaning = match before.replace(variable) {
                    None => setting.meaning(),
                    Some(before) => format!("As `{before}`, where that is not set"),
                };
                let (_, readers) =
                    variables.entry((variable, meaning)).or_insert_with(|| (setting, Vec::new()));
                readers.push(code(Some(program.name)));
            }
        }
    }
    for ((variable, meaning), (setting, readers)) in variables {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} |",
            code(Some(variable)),
            code(setting.flag().as_deref()),
            readers.join(", "),
            code(setting.default),
            cell(&meaning)
        );
    }
    page
}

fn code(text: Option<&str>) -> String {
    text.map(|text| format!("`{}`", cell(text))).unwrap_or_default()
}

/// The text, with `|` escaped, so that the text stays in one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_pages_of_the_reference_are_current() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        if !directory.is_dir() {
            // The crate alone, outside of its workspace.
            return;
        }
        for page in pages() {
            let file = directory.join(page.file);
            assert!(
                std::fs::read_to_string(&file).is_ok_and(|text| text == page.text),
                "{} is not current; `cargo run -p dynamo-cli --example reference` writes it",
                file.display()
            );
        }
    }
}
