//! The Python wheel: `pip install` puts the programs on the PATH.
//!
//! A wheel is a zip of the programs and three short files, which `wheel.py` writes. maturin would make
//! the same, and compile all programs once more for it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{
    folder::{Dist, NAME},
    outcome::{Outcome, made},
    trial,
};
use crate::{process::capture, workspace};

/// Static programs need no particular libc: the oldest platforms that pip knows of.
const TAG: &str = "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.musllinux_1_1_x86_64";

const MAKER: &str = include_str!("wheel.py");

fn file(dist: &Dist) -> PathBuf {
    dist.file(&format!("{}-{}-{TAG}.whl", NAME.replace('-', "_"), dist.version))
}

pub(crate) fn build(dist: &Dist) -> Result<Outcome> {
    let wheel = file(dist);
    let mut python = Command::new("python3");
    python.args(["-c", MAKER]).arg(dist.tree.join("bin")).arg(&wheel);
    python.args([NAME, &dist.version, TAG]);
    python.arg(workspace::root().join("crates/dynamo-cli/README.md"));
    capture(python.arg(dist.tree.join("share/licenses").join(NAME)))?;
    made(&wheel)
}

pub(crate) fn check(dist: &Dist) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("dyn-venv-").tempdir()?;
    let venv = Venv { folder };
    capture(Command::new("python3").args(["-m", "venv"]).arg(venv.folder.path()))
        .context("`apt-get install python3-venv`")?;
    let pip = |arguments: &[&str]| capture(venv.program("pip").args(arguments));
    pip(&["install", "--no-index", &file(dist).to_string_lossy()])?;
    let shown = pip(&["show", "--files", NAME])?;
    ensure!(shown.contains(&format!("Version: {}\n", dist.version)), "pip shows {shown}");
    let told = trial::run(dist, &venv)?;
    pip(&["uninstall", "--yes", NAME])?;
    ensure!(!venv.path("dynamo-frontend").exists(), "a program outlives its package");
    Ok(Outcome::Done(format!("in a venv: {told}; uninstalled")))
}

#[derive(Debug)]
struct Venv {
    folder: TempDir,
}

impl Venv {
    fn path(&self, program: &str) -> PathBuf {
        self.folder.path().join("bin").join(program)
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.path(name))
    }
}

impl trial::Place for Venv {
    fn name(&self) -> &'static str {
        "wheel"
    }

    fn command(&self, program: &str) -> Command {
        self.program(program)
    }
}
