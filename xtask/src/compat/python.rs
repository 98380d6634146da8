//! Python environments under `target/compat`, kept between runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    process::{Interrupted, capture},
    workspace,
};

/// Packages that are installed together, away from all others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment {
    name: &'static str,
    packages: &'static [&'static str],
    /// The script of ours that installs what they depend on, where pip would not find it.
    completed_by: Option<&'static str>,
}

impl Environment {
    pub(crate) const fn of(name: &'static str, packages: &'static [&'static str]) -> Self {
        Self { name, packages, completed_by: None }
    }

    /// Pip installs the packages alone, and the script all the rest.
    pub(crate) const fn without_dependencies_until(self, script: &'static str) -> Self {
        Self { completed_by: Some(script), ..self }
    }

    /// Installs the packages, unless an earlier run did.
    pub(crate) fn install(self, fresh: bool) -> Result<()> {
        let place = self.place()?;
        // Written last, so that a half of an environment is not taken for a whole one.
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
        let mut pip = self.python()?;
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary"]);
        if self.completed_by.is_some() {
            pip.arg("--no-deps");
        }
        let mut steps = vec![pip.args(self.packages)];
        let mut completion = self.python()?;
        if let Some(name) = self.completed_by {
            steps.push(completion.arg(script(name)));
        }
        for step in steps {
            capture(step).or_else(explained(
                "pip cannot install it from the index that pip's own settings name",
            ))?;
        }
        fs::write(stamp, wanted)?;
        Ok(())
    }

    /// The interpreter with the packages.
    pub(crate) fn python(self) -> Result<Command> {
        Ok(Command::new(self.interpreter()?))
    }

    /// Where the interpreter is.
    pub(crate) fn interpreter(self) -> Result<PathBuf> {
        Ok(self.place()?.join("bin/python"))
    }

    /// The versions that are installed of what was asked for.
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

/// Says what was needed, unless we were interrupted.
pub(crate) fn explained(what: &'static str) -> impl FnOnce(anyhow::Error) -> Result<String> {
    move |error| if error.is::<Interrupted>() { Err(error) } else { Err(error).context(what) }
}

/// Where everything of this command is kept between runs.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(workspace::target()?.join("compat"))
}

/// A script of ours.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(workspace::root()).join("tests/compat").join(name)
}
