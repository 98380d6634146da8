//! The programs as a tar.gz, for any Linux, and the checksums of all artefacts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use rustix::process::geteuid;

use super::{
    folder::{Dist, NAME, PROGRAMS, TARGET, copy_all},
    outcome::{Outcome, made},
    trial,
};
use crate::{process::capture, workspace};

fn stem(dist: &Dist) -> String {
    format!("{NAME}-{}-{TARGET}", dist.version)
}

pub(crate) fn build(dist: &Dist) -> Result<Outcome> {
    let scratch = dist.scratch("archive")?;
    let stem = stem(dist);
    copy_all(&dist.tree, &scratch.join(&stem))?;
    copy_all(&workspace::root().join("deploy/etc"), &scratch.join(&stem).join("etc"))?;
    copy_all(&workspace::root().join("deploy/systemd"), &scratch.join(&stem).join("systemd"))?;
    let archive = dist.file(&format!("{stem}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", dist.time)).args(["--use-compress-program", "gzip -9n"]);
    tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&scratch).arg(&stem);
    capture(&mut tar)?;
    fs::remove_dir_all(&scratch)?;
    made(&archive)
}

/// Writes the checksums of the files in `target/dist`, in the format of `sha256sum --check`.
pub(crate) fn sums(dist: &Dist) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(&dist.folder)?
        .flatten()
        .filter(|entry| entry.path().is_file() && entry.file_name() != "SHA256SUMS")
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    let mut command = Command::new("sha256sum");
    let sums = capture(command.current_dir(&dist.folder).arg("--").args(names))?;
    Ok(fs::write(dist.file("SHA256SUMS"), sums)?)
}

/// Unpacks the archive into a directory, and runs the programs with that as their root: there is
/// nothing beside them.
pub(crate) fn check(dist: &Dist) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("dyn-chroot-").tempdir()?;
    let archive = dist.file(&format!("{}.tar.gz", stem(dist)));
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--file"]).arg(&archive);
    capture(tar.arg("--directory").arg(folder.path()))?;
    read_by_shells(&folder.path().join("share"))?;
    let told = trial::run(dist, &Chroot { root: folder.path().into() })?;
    Ok(Outcome::Done(format!("in an empty root: {told}")))
}

/// man renders the pages, and the shells that are here load the completions.
fn read_by_shells(share: &Path) -> Result<()> {
    for program in PROGRAMS {
        if let Some(man) = installed("man") {
            let page = share.join(format!("man/man1/{program}.1"));
            let mut command = Command::new(man);
            let read = capture(command.args(["--warnings", "--local-file"]).arg(page))?;
            ensure!(read.contains("SYNOPSIS"), "the page of {program}: {read}");
        }
        let bash = share.join("bash-completion/completions").join(program);
        let mut command = Command::new("bash");
        command.args(["-c", ". \"$1\" && complete -p \"$2\"", "bash"]).arg(bash);
        capture(command.arg(program))?;
        if let Some(zsh) = installed("zsh") {
            let load = "fpath=(\"$1\" $fpath); autoload -Uz compinit; compinit -u -D; \
                        [[ ${_comps[$2]} = _$2 ]] && autoload +X _$2";
            let mut command = Command::new(zsh);
            command.args(["-f", "-c", load, "zsh"]).arg(share.join("zsh/site-functions"));
            capture(command.arg(program))?;
        }
        if let Some(fish) = installed("fish") {
            let script = share.join(format!("fish/vendor_completions.d/{program}.fish"));
            let load = "source $argv[1]; complete --do-complete \"$argv[2] --vers\"";
            let mut command = Command::new(fish);
            let completed =
                capture(command.args(["--no-config", "-c", load]).arg(script).arg(program))?;
            ensure!(completed.contains("--version"), "fish completes {program} by {completed:?}");
        }
    }
    Ok(())
}

fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A directory that is the root of the programs in its `bin`.
#[derive(Debug)]
struct Chroot {
    root: PathBuf,
}

impl trial::Place for Chroot {
    fn name(&self) -> &'static str {
        "archive"
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.arg("--root").arg(&self.root).arg(format!("/bin/{program}"));
        command
    }
}
