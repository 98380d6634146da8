//! Programs from crates.io under `target/compat`, kept between runs.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use super::python::{directory, explained};
use crate::{process::capture, workspace};

/// A crate with a program of the same name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
}

impl Program {
    /// Builds the program, unless an earlier run did.
    pub(crate) fn install(self, fresh: bool) -> Result<()> {
        // Cargo copies the binary last, so an existing binary is complete.
        if !fresh && self.path()?.exists() {
            return Ok(());
        }
        let root = self.root()?;
        println!("building {} into {}", self.name, root.display());
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        let mut cargo = workspace::cargo(["install", self.name, "--locked", "--root"]);
        capture(cargo.arg(root))
            .or_else(explained("cargo cannot build it from the registry that its settings name"))?;
        Ok(())
    }

    /// The program's name and version, as `--version` prints them.
    pub(crate) fn version(self) -> Result<String> {
        let printed = capture(Command::new(self.path()?).arg("--version"))?;
        Ok(printed.trim().to_owned())
    }

    pub(crate) fn path(self) -> Result<PathBuf> {
        Ok(self.root()?.join("bin").join(self.name))
    }

    fn root(self) -> Result<PathBuf> {
        Ok(directory()?.join(self.name))
    }
}
