//! Why a section of the configuration file is refused: by which part, on which line, with which value.

use std::fmt::Display;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::failure::{Failure, one_line};
use crate::settings::file::{ConfigFile, Section, nearest};

/// The longest value that a message repeats.
const LONGEST: usize = 100;

/// Why a section is refused, and by which part, as a JSON pointer.
#[derive(Debug)]
pub(super) struct Fault {
    pointer: String,
    pub(super) why: String,
}

impl Fault {
    pub(super) fn new(pointer: impl Into<String>, why: impl Display) -> Self {
        Self { pointer: pointer.into(), why: why.to_string() }
    }

    /// One line with the file, the line, the part and the fault.
    pub(super) fn told(&self, file: &Path, name: &str, section: &Section) -> Failure {
        let at = ConfigFile::place(file, section.line_of(&self.pointer));
        let part = path(&self.pointer, &section.value);
        Failure::usage(format!("{at}: {name}{part}: {}", self.why))
    }
}

/// A pointer as a message shows it, with the name of an entry: `[0] (gpt-4o).targets[1]`.
fn path(pointer: &str, section: &Value) -> String {
    let part = |(depth, part): (usize, &str)| match part.parse::<usize>() {
        Ok(number) if depth == 0 => match section[number]["name"].as_str() {
            Some(name) if is_short(name) => format!("[{number}] ({})", name.escape_debug()),
            _ => format!("[{number}]"),
        },
        Ok(number) => format!("[{number}]"),
        Err(_) => format!(".{}", part.replace("~1", "/").replace("~0", "~").escape_debug()),
    };
    pointer.split('/').skip(1).enumerate().map(part).collect()
}

fn is_short(text: &str) -> bool {
    text.len() <= LONGEST
}

/// A pointer with one more member.
pub(super) fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The members of an object that has no others than these fields.
pub(super) fn object<'a>(
    value: &'a Value,
    pointer: &str,
    fields: &[&'static str],
) -> Result<&'a Map<String, Value>, Fault> {
    let Value::Object(members) = value else {
        let why = format!("expected the fields {}", fields.join(", "));
        return Err(Fault::new(pointer, why));
    };
    match members.keys().find(|name| !fields.contains(&name.as_str())) {
        None => Ok(members),
        Some(name) => {
            let nearest = nearest(name, fields.iter().copied());
            let why =
                format!("there is no field `{}`; the nearest is `{nearest}`", name.escape_debug());
            Err(Fault::new(below(pointer, name), why))
        }
    }
}

/// Reads each member alone, beside what an object `needs`, so that one that is wrong names its own
/// line. The values of `hidden` members are not repeated.
pub(super) fn each_alone<T: DeserializeOwned>(
    members: &Map<String, Value>,
    pointer: &str,
    needs: &Value,
    hidden: &[&str],
) -> Result<(), Fault> {
    for (name, member) in members {
        let mut object = needs.clone();
        object[name] = member.clone();
        if let Err(error) = T::deserialize(object) {
            let why = why(&error);
            let shown = if hidden.contains(&name.as_str()) { None } else { shown(member) };
            let why = match shown.filter(|shown| !why.contains(shown)) {
                Some(shown) => format!("{shown}: {why}"),
                None => why,
            };
            return Err(Fault::new(below(pointer, name), why));
        }
    }
    Ok(())
}

/// A value as a message repeats it; a list, fields and what is long are not.
fn shown(value: &Value) -> Option<String> {
    let shown = match value {
        Value::Array(_) | Value::Object(_) => return None,
        Value::String(text) => format!("{text:?}"),
        value => value.to_string(),
    };
    is_short(&shown).then_some(shown)
}

/// Text of the file, escaped, since the text must not control a terminal.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            letter if letter.is_control() => escaped.extend(letter.escape_debug()),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// What is expected, without the names of types.
fn why(error: &serde_json::Error) -> String {
    let said = escaped(&one_line(&error.to_string()));
    let of_type = ["invalid type: ", "invalid value: ", "unknown variant "];
    let is_of_type = of_type.iter().any(|begin| said.starts_with(begin));
    let Some((_, expected)) = said.rsplit_once(", expected ").filter(|_| is_of_type) else {
        return said;
    };
    let expected = match expected {
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "a nonzero u32" => format!("a whole number from 1 to {}", u32::MAX),
        "u64" => format!("a whole number from 0 to {}", u64::MAX),
        "a nonzero u64" => format!("a whole number from 1 to {}", u64::MAX),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => other.to_owned(),
    };
    format!("expected {expected}")
}
