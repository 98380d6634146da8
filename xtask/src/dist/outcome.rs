//! How a step ended.

use std::{fs, path::Path};

use anyhow::Result;

#[derive(Debug)]
pub(crate) enum Outcome {
    /// With an artefact or a finding.
    Done(String),
    /// This machine lacks what the step needs.
    LeftOut(String),
}

/// An artefact that was made: its name and size.
pub(crate) fn made(path: &Path) -> Result<Outcome> {
    let tenths = fs::metadata(path)?.len() / 100_000;
    let name = path.file_name().unwrap_or_default().display();
    Ok(Outcome::Done(format!("{name}, {}.{} MB", tenths / 10, tenths % 10)))
}
