//! Python environments under `target/compat`, kept between runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process::capture, signals::Interrupted, workspace};

const PIP_INSTALL: [&str; 5] =
    ["-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary"];

/// Packages that share an environment of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment {
    name: &'static str,
    packages: &'static [&'static str],
    /// Our script that installs the packages, if pip alone is not enough.
    installer: Option<&'static str>,
}

impl Environment {
    pub(crate) const fn of(name: &'static str, packages: &'static [&'static str]) -> Self {
        Self { name, packages, installer: None }
    }

    pub(crate) const fn installed_by(self, script: &'static str) -> Self {
        Self { installer: Some(script), ..self }
    }

    /// Installs the packages, unless an earlier run did.
    pub(crate) fn install(self, fresh: bool) -> Result<()> {
        let place = self.place()?;
        // The mark is written last, so that a partial environment does not count as complete.
        let stamp = place.join("packages");
        let wanted = self.packages.join("\n");
        if !fresh && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        println!("installing {} into {}", self.packages.join(", "), place.display());
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        capture(Command::new("python3").args(["-m", "venv"]).arg(&place))
            .or_else(explained("python3 with its module venv is needed"))?;
        let mut installer = self.python()?;
        match self.installer {
            None => installer.args(PIP_INSTALL),
            Some(name) => installer.arg("-B").arg(script(name)),
        };
        capture(installer.args(self.packages)).or_else(explained(
            "pip needs the index that its settings name, and a C++ compiler for what is source",
        ))?;
        fs::write(stamp, wanted)?;
        Ok(())
    }

    /// The interpreter with the packages.
    pub(crate) fn python(self) -> Result<Command> {
        Ok(Command::new(self.interpreter()?))
    }

    /// The path of the interpreter.
    pub(crate) fn interpreter(self) -> Result<PathBuf> {
        Ok(self.place()?.join("bin/python"))
    }

    /// The installed versions of the wanted packages.
    pub(crate) fn versions(self) -> Result<String> {
        let script = "import sys, importlib.metadata as m\n\
                      print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))";
        let printed = capture(self.python()?.args(["-c", script]).args(self.packages))?;
        Ok(printed.trim().to_owned())
    }

    fn place(self) -> Result<PathBuf> {
        Ok(directory()?.join(self.name))
    }
}

/// Adds `what`, the text of the requirement, to an error, unless a signal caused the error.
pub(crate) fn explained(what: &'static str) -> impl FnOnce(anyhow::Error) -> Result<String> {
    move |error| if error.is::<Interrupted>() { Err(error) } else { Err(error).context(what) }
}

/// The directory that keeps this command's files between runs.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(workspace::target()?.join("compat"))
}

/// A script of ours.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(workspace::root()).join("tests/compat").join(name)
}
