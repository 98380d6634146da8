//! The check that `docs/troubleshooting.md` lists each warning, each error line and each error code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use anyhow::{Context, Result, anyhow, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::Lit;

use crate::workspace;

const PAGE: &str = "docs/troubleshooting.md";
const CRATES: &str = "crates";

/// Compares the page with the sources, in both directions.
pub(crate) fn check() -> Result<()> {
    let page = fs::read_to_string(workspace::root().join(PAGE)).context(PAGE)?;
    let mut sources = Vec::new();
    read_sources(&workspace::root().join(CRATES), &mut sources)?;
    let complaints = compare(&sources, &page)?;
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("{PAGE} does not agree with the sources in {CRATES}:\n  {}", complaints.join("\n  "))
}

/// Reads each file of Rust under a directory, except tests, benches and examples.
fn read_sources(directory: &Path, sources: &mut Vec<String>) -> Result<()> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !["tests", "benches", "examples", "target"].contains(&&*name) {
                read_sources(&path, sources)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            sources.push(fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(())
}

/// Each entry that is in the sources only, or in the page only.
fn compare(sources: &[String], page: &str) -> Result<Vec<String>> {
    let mut wanted = Entries::default();
    for source in sources {
        let tokens = TokenStream::from_str(source).map_err(|error| anyhow!("{error}"))?;
        wanted.collect(&tokens);
    }
    let listed = Entries::of_page(page);
    let mut complaints = Vec::new();
    for (what, wanted, listed) in
        [("log line", wanted.logs, listed.logs), ("error code", wanted.codes, listed.codes)]
    {
        let missing = wanted.difference(&listed).map(|one| format!("missing {what}: {one}"));
        let stale = listed.difference(&wanted).map(|one| format!("no such {what}: {one}"));
        complaints.extend(missing.chain(stale));
    }
    Ok(complaints)
}

/// Log lines as `WARN message`, and error codes.
#[derive(Debug, Default)]
struct Entries {
    logs: BTreeSet<String>,
    codes: BTreeSet<String>,
}

impl Entries {
    /// Adds the entries of one source file.
    fn collect(&mut self, file: &TokenStream) {
        let mut has_variable_codes = false;
        calls(file, &mut |call, arguments| match call {
            // A macro's message is its last literal: the fields come first.
            "warn!" => self.logs.extend(arguments.last().map(|text| log_line("WARN", text))),
            "error!" => self.logs.extend(arguments.last().map(|text| log_line("ERROR", text))),
            "with_code" => match arguments.first() {
                Some(code) => drop(self.codes.insert(code.clone())),
                None => has_variable_codes = true,
            },
            _ => {}
        });
        // The code is a variable, so each literal of the file that looks like a code counts.
        if has_variable_codes {
            calls(file, &mut |_, arguments| {
                let codes = arguments.iter().filter(|text| looks_like_a_code(text));
                self.codes.extend(codes.cloned());
            });
        }
    }

    /// The first columns of the page's tables of log lines and of error codes.
    fn of_page(page: &str) -> Self {
        let mut entries = Self::default();
        let mut heading = String::new();
        for line in page.lines() {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let (Some(first), Some(second)) = (cells.next(), cells.next()) else {
                heading.clear();
                continue;
            };
            let text = first.trim_matches('`');
            match heading.as_str() {
                "" => first.clone_into(&mut heading),
                _ if first.starts_with("---") => {}
                "log line" => drop(entries.logs.insert(format!("{second} {text}"))),
                "code" => drop(entries.codes.insert(text.to_owned())),
                _ => {}
            }
        }
        entries
    }
}

/// A log line as in the page, which has `…` in place of a value: `{name}` in the sources.
fn log_line(level: &str, message: &str) -> String {
    let mut line = format!("{level} ");
    for (index, part) in message.split('{').enumerate() {
        match part.split_once('}') {
            Some((_, text)) if index > 0 => line.extend(["…", text]),
            _ => line.push_str(part),
        }
    }
    line
}

fn looks_like_a_code(text: &str) -> bool {
    text.contains('_') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Visits each call `name(…)` and `name!(…)` outside of test modules, with the string literals that
/// are its own arguments. Literals of nested calls belong to those.
fn calls(tokens: &TokenStream, visit: &mut impl FnMut(&str, &[String])) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    let mut rest = tokens.as_slice();
    while let [token, after @ ..] = rest {
        rest = after;
        match (token, after) {
            // `#[cfg(test)] mod tests { … }`
            (
                TokenTree::Punct(_),
                [TokenTree::Group(cfg), TokenTree::Ident(module), _, _, after @ ..],
            ) if cfg.to_string() == "[cfg (test)]" && module == "mod" => {
                rest = after;
            }
            // The definition of a function is no call.
            (TokenTree::Ident(keyword), [TokenTree::Ident(_), after @ ..]) if keyword == "fn" => {
                rest = after;
            }
            (TokenTree::Ident(name), [TokenTree::Punct(mark), TokenTree::Group(arguments), ..])
                if mark.as_char() == '!' =>
            {
                visit(&format!("{name}!"), &literals(&arguments.stream()));
            }
            (TokenTree::Ident(name), [TokenTree::Group(arguments), ..])
                if arguments.delimiter() == Delimiter::Parenthesis =>
            {
                visit(&name.to_string(), &literals(&arguments.stream()));
            }
            (TokenTree::Group(group), _) => calls(&group.stream(), visit),
            _ => {}
        }
    }
}

/// The string literals among the tokens, not those in groups.
fn literals(tokens: &TokenStream) -> Vec<String> {
    let literal = |token: TokenTree| match syn::parse2(token.into()) {
        Ok(Lit::Str(text)) => Some(text.value()),
        _ => None,
    };
    tokens.clone().into_iter().filter_map(literal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        // warn!("in a comment")
        fn f<'a>(x: &'a str) -> char {
            warn!(%x, error = format_args!("{error:#}"), "a message that \
                   goes on");
            error!(
                mark = '"',
                "an error (with parentheses)"
            );
            other_warn!("of another macro");
            new(message).with_code("first_code").with_shape("no_code");
            '\''
        }
#[cfg(test)]
mod tests {
    fn f() { warn!("in a test"); }
}
"#;
    const PAGE: &str = "
| code | status | meaning |
|---|---|---|
| `first_code` | 503 | … |

| log line | level | meaning |
|---|---|---|
| `a message that goes on` | WARN | … |
| `an error (with parentheses)` | ERROR | … |

| symptom | meaning |
|---|---|
| `of another table` | … |
";

    fn complaints(source: &str, page: &str) -> Vec<String> {
        compare(&[source.to_owned()], page).unwrap()
    }

    #[test]
    fn a_page_that_lists_every_log_line_and_every_code_passes() {
        assert_eq!(complaints(SOURCE, PAGE), Vec::<String>::new());
    }

    #[test]
    fn a_log_line_or_a_code_that_is_missing_from_the_page_is_named() {
        let page = PAGE.replace("first_code", "second_code").replace("goes on", "went on");
        assert_eq!(
            complaints(SOURCE, &page),
            [
                "missing log line: WARN a message that goes on",
                "no such log line: WARN a message that went on",
                "missing error code: first_code",
                "no such error code: second_code",
            ]
        );
    }

    #[test]
    fn a_log_line_under_the_wrong_level_is_named() {
        let page = PAGE.replace("| ERROR |", "| WARN |");
        assert_eq!(complaints(SOURCE, &page).len(), 2);
    }

    #[test]
    fn a_value_in_a_message_is_an_ellipsis_in_the_page() {
        let source = r#"fn f() { warn!("the port {port} is taken by {other}") }"#;
        assert_eq!(complaints(source, ""), ["missing log line: WARN the port … is taken by …"]);
    }

    #[test]
    fn a_code_that_is_passed_as_a_variable_is_found_in_its_file() {
        let source = r#"let error = |code| new("A text.").with_code(code); error("late_code")"#;
        assert_eq!(complaints(source, ""), ["missing error code: late_code"]);
    }

    #[test]
    fn the_page_agrees_with_the_sources() {
        check().unwrap();
    }
}
