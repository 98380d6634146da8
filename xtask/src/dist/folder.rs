//! `target/dist`, and the facts about the release that all artefacts share.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process::capture, version, workspace};

/// The programs of a release.
pub(crate) const PROGRAMS: [&str; 4] =
    ["dynamo-frontend", "dynamo-models", "dynamo-worker", "dynamo-worker-config"];

/// The name of the release's files, of the Debian package and of the Python package.
pub(crate) const NAME: &str = "dynamo-namespace";

/// The platform of the binaries. With musl, a stock toolchain links everything into the binary, the
/// resolver of names included, which a static glibc would load at run time.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// What Docker's images and Debian's packages call that platform.
pub(crate) const ARCHITECTURE: &str = "amd64";

/// The variable that tells the programs their commit when they are compiled.
pub(crate) const COMMIT_VAR: &str = "DYNAMO_COMMIT";

#[derive(Debug)]
pub(crate) struct Dist {
    /// `target/dist`.
    pub(crate) folder: PathBuf,
    /// What each artefact holds, laid out as below `/usr`: `bin` and `share`.
    pub(crate) tree: PathBuf,
    pub(crate) version: String,
    /// The commit of the sources, with a mark if files differ from it.
    pub(crate) commit: String,
    /// The time of that commit, in seconds: archives of one commit are the same bytes.
    pub(crate) time: String,
}

impl Dist {
    /// Reads the facts, and makes the folder.
    pub(crate) fn new() -> Result<Self> {
        let folder = workspace::target()?.join("dist");
        let tree = folder.join("tree");
        fs::create_dir_all(&tree)?;
        Ok(Self {
            tree,
            version: version::current()?,
            commit: told(
                COMMIT_VAR,
                &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            )?,
            time: told("SOURCE_DATE_EPOCH", &["log", "-1", "--format=%ct"])?,
            folder,
        })
    }

    /// A file of the folder, whatever became of an earlier one.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An empty directory of the folder.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let place = self.folder.join(name);
        if place.exists() {
            fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
        }
        fs::create_dir_all(&place)?;
        Ok(place)
    }
}

/// A fact by its variable, which builds from an archive of the sources need, else as git tells it.
fn told(variable: &str, git: &[&str]) -> Result<String> {
    if let Some(told) = env::var(variable).ok().filter(|told| !told.is_empty()) {
        return Ok(told);
    }
    let printed = capture(Command::new("git").current_dir(workspace::root()).args(git));
    let printed = printed.with_context(|| format!("without git, {variable} must be set"))?;
    Ok(printed.trim().to_owned())
}

/// Copies a file, and makes its directory.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Writes a file, and makes its directory.
pub(crate) fn write(to: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::write(to, content).with_context(|| format!("cannot write {}", to.display()))
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &place)?,
            false => copy(&entry.path(), &place)?,
        }
    }
    Ok(())
}
