//! The Debian package, which `dpkg-deb` makes of the programs and the files in `deploy`.
//!
//! The programs are static, so the package is for every release of Debian and Ubuntu.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use tempfile::TempDir;

use super::{
    folder::{ARCHITECTURE, Dist, NAME, PROGRAMS, copy, copy_all, write},
    outcome::{Outcome, made},
    trial,
};
use crate::{process::capture, workspace};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

const UNITS: [&str; 2] = ["dynamo-frontend.service", "dynamo-worker.service"];

/// The release of Debian in which the package is tried, and where debootstrap finds it.
const CLEAN: [&str; 2] = ["bookworm", "http://deb.debian.org/debian"];

fn file(dist: &Dist) -> PathBuf {
    dist.file(&format!("{NAME}_{}_{ARCHITECTURE}.deb", dist.version))
}

pub(crate) fn build(dist: &Dist) -> Result<Outcome> {
    let deploy = workspace::root().join("deploy");
    let root = dist.scratch("debian")?;
    let usr = root.join("usr");
    copy_all(&dist.tree, &usr)?;
    let doc = usr.join("share/doc").join(NAME);
    // Debian's places for what others have elsewhere.
    let moved = [
        ("share/zsh/site-functions", "share/zsh/vendor-completions"),
        ("share/licenses/dynamo-namespace/THIRD-PARTY", "share/doc/dynamo-namespace/THIRD-PARTY"),
    ];
    fs::create_dir_all(&doc)?;
    for (from, to) in moved {
        fs::rename(usr.join(from), usr.join(to)).with_context(|| from.to_owned())?;
    }
    fs::remove_dir_all(usr.join("share/licenses"))?;
    copy_all(&deploy.join("etc"), &root.join("etc"))?;
    for unit in UNITS {
        copy(&deploy.join("systemd").join(unit), &usr.join("lib/systemd/system").join(unit))?;
    }
    copy_all(&deploy.join("systemd/examples"), &doc.join("examples"))?;
    copy(&deploy.join("debian/copyright"), &doc.join("copyright"))?;
    copy(&workspace::root().join("CHANGELOG.md"), &doc.join("changelog"))?;
    let pages = PROGRAMS.map(|program| usr.join(format!("share/man/man1/{program}.1")));
    capture(Command::new("gzip").arg("-9n").args(pages).arg(doc.join("changelog")))?;
    control(dist, &root)?;
    modes(&root)?;
    let package = file(dist);
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(&package);
    capture(command.env("SOURCE_DATE_EPOCH", &dist.time))?;
    fs::remove_dir_all(&root)?;
    made(&package)
}

/// Writes the package's description and its scripts.
fn control(dist: &Dist, root: &Path) -> Result<()> {
    let from = workspace::root().join("deploy/debian");
    let kilobytes = capture(Command::new("du").args(["--summarize", "--block-size=1K"]).arg(root))?;
    let kilobytes = kilobytes.split_whitespace().next().unwrap_or_default();
    let control = fs::read_to_string(from.join("control"))?
        .replace("@VERSION@", &dist.version)
        .replace("@ARCHITECTURE@", ARCHITECTURE)
        .replace("@SIZE@", kilobytes);
    let to = root.join("DEBIAN");
    write(&to.join("control"), control)?;
    copy(&from.join("conffiles"), &to.join("conffiles"))?;
    for script in SCRIPTS {
        copy(&from.join(script), &to.join(script))?;
    }
    Ok(())
}

/// Only programs and scripts are executable, whatever the umask of this machine is.
fn modes(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            modes(&path)?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let runs = folder.ends_with("bin") || SCRIPTS.contains(&&*name);
        fs::set_permissions(&path, fs::Permissions::from_mode(if runs { 0o755 } else { 0o644 }))?;
    }
    Ok(())
}

/// Installs the package in a Debian that has nothing but what debootstrap brings, and removes it.
pub(crate) fn check(dist: &Dist) -> Result<Outcome> {
    if !geteuid().is_root() {
        return Ok(Outcome::LeftOut("debootstrap and dpkg need root".into()));
    }
    let clean = match clean() {
        Ok(clean) => clean,
        Err(error) => return Ok(Outcome::LeftOut(format!("no clean Debian: {error:#}"))),
    };
    let machine = Machine::copy_of(&clean)?;
    let root = machine.folder.path();
    fs::copy(file(dist), root.join("package.deb"))?;
    machine.run(&["dpkg", "--install", "/package.deb"])?;
    machine.run(&["id", "dynamo"])?;
    for program in ["frontend", "worker"] {
        let settings = format!("/etc/dynamo/{program}.yaml");
        machine.run(&[&format!("dynamo-{program}"), "config", "check", &settings])?;
    }
    let conffiles = machine.run(&["dpkg-query", "--show", "--showformat=${Conffiles}", NAME])?;
    ensure!(conffiles.matches("/etc/dynamo/").count() == 2, "the conffiles: {conffiles}");
    let told = trial::run(dist, &machine)?;
    let exposure = units(root)?;
    machine.run(&["dpkg", "--remove", NAME])?;
    ensure!(root.join("etc/dynamo/frontend.yaml").is_file(), "a removal takes the settings along");
    machine.run(&["dpkg", "--purge", NAME])?;
    ensure!(!root.join("etc/dynamo").exists(), "a purge leaves the settings");
    Ok(Outcome::Done(format!("in a clean {}: {told}; {exposure}; purged", CLEAN[0])))
}

/// The opinion that this machine's systemd has of the installed units: the smallest Debian has none.
fn units(root: &Path) -> Result<String> {
    if capture(Command::new("systemd-analyze").arg("--version")).is_err() {
        return Ok("no systemd-analyze here".into());
    }
    let folder = tempfile::tempdir()?;
    let mut told = Vec::new();
    for unit in UNITS {
        let text = fs::read_to_string(root.join("usr/lib/systemd/system").join(unit))?;
        let programs = format!("ExecStart={}/usr/bin/", root.display());
        let path = folder.path().join(unit);
        write(&path, text.replace("ExecStart=/usr/bin/", &programs))?;
        let analyze = |arguments: &[&str]| {
            capture(Command::new("systemd-analyze").args(arguments).arg(&path))
        };
        analyze(&["verify", "--man=no"])?;
        let page = analyze(&["security", "--offline=true", "--threshold=30"])?;
        let level = page.lines().find_map(|line| line.split_once("exposure level for "));
        told.push(level.map_or(unit, |(_, level)| level).to_owned());
    }
    Ok(format!("exposure {}", told.join(", ")))
}

/// The clean Debian, kept between runs.
fn clean() -> Result<PathBuf> {
    let place = workspace::tools()?.join("debian").join(CLEAN[0]);
    if !place.join("etc/debian_version").is_file() {
        let scratch = place.with_extension("part");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir_all(&scratch)?;
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", CLEAN[0]]).arg(&scratch).arg(CLEAN[1]);
        capture(&mut command)?;
        fs::rename(&scratch, &place)?;
    }
    Ok(place)
}

/// A copy of the clean Debian.
#[derive(Debug)]
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn copy_of(clean: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("dyn-debian-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut copy = Command::new("cp");
        capture(
            copy.args(["--archive", "--one-file-system"]).arg(clean.join(".")).arg(folder.path()),
        )?;
        Ok(Self { folder })
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("chroot");
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        capture(command.arg(self.folder.path()).args(words))
    }
}

impl trial::Place for Machine {
    fn name(&self) -> &'static str {
        "debian"
    }

    /// As the user of the services.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg("--userspec=dynamo:dynamo").arg(self.folder.path()).arg(program);
        command
    }
}
