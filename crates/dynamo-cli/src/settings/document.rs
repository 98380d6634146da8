//! A file in YAML, whatever its fields are, and what messages say of such files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use super::file::Section;
use super::node::Node;
use crate::failure::{Failure, one_line};

/// The largest file that is read: more than anybody writes.
const LARGEST: u64 = 16 << 20;

impl Section {
    /// Reads a whole file. Nothing in it is replaced.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is no YAML. The line is named, and nothing of the file repeated.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = text(path)
            .with_context(|| format!("cannot read {}", path.display()))
            .map_err(Failure::Usage)?;
        // Its snippets would repeat what may be a secret.
        let options = serde_saphyr::options! { with_snippet: false };
        let read = serde_saphyr::from_str_with_options::<Node>(&text, options);
        let node = read.map_err(|error| {
            let line = error.location().map(|location| location.line());
            Failure::usage(format!("{}: {}", at(path, line), said(&error)))
        })?;
        let mut lines = BTreeMap::new();
        node.note_lines(&mut String::new(), &mut lines);
        Ok(Self { line: 1, value: node.into_value(), lines })
    }
}

/// The text of a file that is not too large.
pub(super) fn text(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    std::fs::read_to_string(path)
}

/// How a message calls a line of a file.
pub(super) fn at(path: &Path, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

/// What the parser says of a fault, without the place, which is told before it.
pub(super) fn said(error: &serde_saphyr::Error) -> String {
    let said = one_line(&error.to_string());
    let end = said.rfind(" at line ").unwrap_or(said.len());
    let said = said[..end].strip_suffix(", set DuplicateKeyPolicy in Options if acceptable");
    said.map_or_else(|| one_line(&error.to_string())[..end].to_owned(), str::to_owned)
}
