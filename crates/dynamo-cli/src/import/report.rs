//! What is told of a file that is translated, with the line of each part.

use std::path::Path;

use serde_json::{Map, Value};

use crate::settings::file::{ConfigFile, Section};

/// What could not be translated, in the order in which it was found.
pub(super) struct Report<'a> {
    path: &'a Path,
    file: &'a Section,
    found: Vec<(u64, String)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a Path, file: &'a Section) -> Self {
        Self { path, file, found: Vec::new() }
    }

    /// Tells of the part with this JSON pointer. No value that may be a secret is in `why`.
    pub(super) fn tell(&mut self, pointer: &str, why: &str) {
        let line = self.file.line_of(pointer);
        let at = ConfigFile::place(self.path, line);
        self.found.push((line, format!("{at}: {}: {why}", shown(pointer))));
    }

    /// The members of an object; what is none is told of.
    pub(super) fn members<'v>(&mut self, value: &'v Value, pointer: &str) -> Members<'v> {
        match value {
            Value::Object(members) => Some(members),
            Value::Null => None,
            _ => {
                self.tell(pointer, "expected fields with values; it is left out");
                None
            }
        }
    }

    /// The elements of a list; what is none is told of.
    pub(super) fn elements<'v>(&mut self, value: &'v Value, pointer: &str) -> &'v [Value] {
        match value {
            Value::Array(elements) => elements,
            Value::Null => &[],
            _ => {
                self.tell(pointer, "expected a list; it is left out");
                &[]
            }
        }
    }

    /// All lines, by their place in the file.
    pub(super) fn lines(mut self) -> Vec<String> {
        self.found.sort_by_key(|(line, _)| *line);
        self.found.into_iter().map(|(_, text)| text).collect()
    }
}

pub(super) type Members<'v> = Option<&'v Map<String, Value>>;

/// A pointer with one more member.
pub(super) fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A pointer as a message shows it: `model_list[0].litellm_params`.
fn shown(pointer: &str) -> String {
    let mut shown = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.parse::<usize>().is_ok() {
            shown += &format!("[{part}]");
        } else {
            let dot = if shown.is_empty() { "" } else { "." };
            shown += &format!("{dot}{}", part.escape_debug());
        }
    }
    shown
}
