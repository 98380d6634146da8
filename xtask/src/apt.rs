//! Debian packages, unpacked into `target/tools`: no root, no service started, nothing installed.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{process::capture, signals::Interrupted, workspace};

/// A program, and the directory of its shared libraries.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    libraries: Option<OsString>,
}

impl Program {
    /// A program that finds its libraries by itself.
    pub(crate) fn installed(path: PathBuf) -> Self {
        Self { path, libraries: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Another program of the same package, by its path beside this one.
    pub(crate) fn beside(&self, path: &str) -> Self {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        Self { path: directory.join(path), libraries: self.libraries.clone() }
    }

    /// Whether it was unpacked, and not installed.
    pub(crate) fn is_unpacked(&self) -> bool {
        self.libraries.is_some()
    }
}

/// The program of the machine, else the one that an earlier call has unpacked.
pub(crate) fn find(name: &str, package: &str) -> Result<Option<Program>> {
    // Servers are in sbin, which the `PATH` of some users lacks.
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let installed = env::split_paths(&path).chain(sbin).map(|dir| dir.join(name));
    if let Some(found) = installed.into_iter().find(|path| path.is_file()) {
        return Ok(Some(Program::installed(found)));
    }
    let root = workspace::tools()?.join(package);
    let unpacked = ["usr/bin", "usr/sbin"].map(|dir| root.join(dir).join(name));
    let libraries = library_directories(&root);
    Ok(unpacked.into_iter().find(|path| path.is_file()).map(|path| Program { path, libraries }))
}

/// The program of the machine, else the one in its package.
pub(crate) fn find_or_fetch(name: &str, package: &str) -> Result<Program> {
    if let Some(found) = find(name, package)? {
        return Ok(found);
    }
    fetch(package).with_context(|| format!("no {name} here, and its package cannot be had"))?;
    find(name, package)?.with_context(|| format!("the package {package} holds no {name}"))
}

/// Unpacks a package, and its dependencies that the machine lacks, into a directory of its name.
fn fetch(package: &str) -> Result<()> {
    let tools = workspace::tools()?;
    fs::create_dir_all(&tools)?;
    // The run unpacks into a directory of its own, and renames the complete directory: other runs
    // may do the same at the same time.
    let scratch = tempfile::tempdir_in(&tools)?;
    let archives = scratch.path().join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    if let Err(error) = download(package, &archives) {
        if error.is::<Interrupted>() {
            return Err(error);
        }
        // A fresh machine has no list of packages, and only root can fetch one.
        capture(apt().arg("update")).with_context(|| {
            format!("{error}; then `apt-get update` failed, as it does without root")
        })?;
        download(package, &archives)?;
    }
    let root = scratch.path().join("root");
    for archive in fs::read_dir(&archives)? {
        let archive = archive?.path();
        if archive.extension() == Some(OsStr::new("deb")) {
            capture(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
        }
    }
    let place = tools.join(package);
    match fs::rename(&root, &place) {
        Err(_) if place.exists() => Ok(()),
        other => other.with_context(|| format!("cannot create {}", place.display())),
    }
}

/// Downloads the packages of an installation, so that missing libraries come along. The command
/// needs no lock, since it installs nothing.
fn download(package: &str, archives: &Path) -> Result<()> {
    let cache = format!("Dir::Cache::archives={}", archives.display());
    let mut command = apt();
    command.args(["install", "--yes", "--download-only", "--no-install-recommends"]);
    command.args(["--option", "Debug::NoLocking=1", "--option", &cache, package]);
    capture(&mut command)?;
    if fs::read_dir(archives)?.count() <= 1 {
        bail!("apt-get downloaded nothing for {package}");
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The directories with shared libraries, as `LD_LIBRARY_PATH` lists them. Some packages keep theirs in
/// directories of their own.
fn library_directories(root: &Path) -> Option<OsString> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.join("usr/lib"), root.join("lib")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(_) if entry.file_name().to_string_lossy().contains(".so") => {
                    found.insert(directory.clone());
                }
                _ => {}
            }
        }
    }
    if found.is_empty() { None } else { env::join_paths(found).ok() }
}
