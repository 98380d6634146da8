//! The static programs, their man pages and their completions: what every artefact holds.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{
    folder::{COMMIT_VAR, Dist, PROGRAMS, TARGET, copy, write},
    licences,
};
use crate::{
    process::{self, capture},
    workspace,
};

/// Builds the programs, and has them write their pages.
pub(crate) fn build(dist: &Dist) -> Result<()> {
    toolchain()?;
    let mut cargo = workspace::cargo(["build", "--release", "--locked", "--package", "dynamo-cli"]);
    cargo.args(["--bins", "--target", TARGET]).env(COMMIT_VAR, &dist.commit);
    println!("$ {}", process::shown(&cargo));
    process::run(&mut cargo)?;
    fs::remove_dir_all(&dist.tree)?;
    let built = workspace::target()?.join(TARGET).join("release");
    for program in PROGRAMS {
        let path = dist.tree.join("bin").join(program);
        copy(&built.join(program), &path)?;
        is_static(&path)?;
        pages(program, &path, &dist.tree.join("share"))?;
    }
    licences::write_all(&dist.tree)
}

/// Fails with a remedy if the toolchain lacks the target, or a compiler of C for it, which ring and
/// mimalloc need.
fn toolchain() -> Result<()> {
    let rustc = ["--print", "target-libdir", "--target", TARGET];
    let library = capture(Command::new("rustc").args(rustc))?;
    ensure!(
        Path::new(library.trim()).is_dir(),
        "the toolchain lacks {TARGET}: `rustup target add {TARGET}`"
    );
    capture(Command::new("musl-gcc").arg("--version"))
        .context("no musl-gcc here: `apt-get install musl-tools`")?;
    Ok(())
}

/// Fails if a program asks for a loader or a library.
fn is_static(program: &Path) -> Result<()> {
    let headers = capture(Command::new("readelf").args(["--wide", "-ld"]).arg(program))?;
    for wants in ["INTERP", "(NEEDED)"] {
        ensure!(!headers.contains(wants), "{} is not static: {wants}", program.display());
    }
    Ok(())
}

/// The places in which man and the shells look.
fn pages(program: &str, path: &Path, share: &Path) -> Result<()> {
    let tell = |arguments: &[&str]| capture(Command::new(path).args(arguments));
    let completions = |shell: &str| tell(&["completions", shell]);
    write(&share.join(format!("man/man1/{program}.1")), tell(&["man"])?)?;
    let bash = share.join("bash-completion/completions").join(program);
    write(&bash, completions("bash")?)?;
    write(&share.join(format!("zsh/site-functions/_{program}")), completions("zsh")?)?;
    let fish = share.join(format!("fish/vendor_completions.d/{program}.fish"));
    write(&fish, completions("fish")?)
}
