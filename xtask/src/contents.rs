//! The check that each published package holds its licence and its front page.

use anyhow::{Result, ensure};

use crate::{packages, process, workspace};

/// What `cargo package` must put into each.
const WANTED: [&str; 2] = ["LICENSE", "README.md"];

/// Lists the files of each package, and names what is missing.
pub(crate) fn check() -> Result<()> {
    let published: Vec<_> =
        packages::all()?.into_iter().filter(|package| package.is_published).collect();
    ensure!(!published.is_empty(), "no package is published");
    for package in published {
        let arguments = ["package", "--list", "--allow-dirty", "-p", &package.name];
        let files = process::capture(&mut workspace::cargo(arguments))?;
        for wanted in WANTED {
            let is_there = files.lines().any(|file| file == wanted);
            ensure!(is_there, "the package {} has no {wanted}", package.name);
        }
    }
    Ok(())
}
