//! The static programs, their man pages and their completions: what every artefact holds.

use std::{ffi::OsString, fs, path::Path, process::Command};

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
    let mut cargo = workspace::cargo(["auditable", "build", "--release", "--locked"]);
    cargo.args(["--package", "dynamo-cli", "--bins", "--target", TARGET]);
    cargo.env(COMMIT_VAR, &dist.commit).env("PATH", auditable()?);
    println!("$ {}", process::shown(&cargo));
    process::run(&mut cargo)?;
    fs::remove_dir_all(&dist.tree)?;
    let built = workspace::target()?.join(TARGET).join("release");
    for program in PROGRAMS {
        let path = dist.tree.join("bin").join(program);
        copy(&built.join(program), &path)?;
        is_static(&path)?;
        carries_dependencies(&path)?;
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

/// Installs cargo-auditable into `target/tools`, if it is not there: it has the compiler put the list of
/// dependencies into each program. Returns the search path that finds it.
fn auditable() -> Result<OsString> {
    const VERSION: &str = "0.7.7";
    let place = workspace::tools()?.join(format!("cargo-auditable-{VERSION}"));
    let programs = place.join("bin");
    if !programs.join("cargo-auditable").is_file() {
        let mut cargo = workspace::cargo(["install", "--locked", "cargo-auditable"]);
        process::run(cargo.args(["--version", VERSION, "--root"]).arg(&place))?;
    }
    let before = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&before)))?)
}

/// Fails if a program holds no list of its dependencies, which scanners read.
fn carries_dependencies(program: &Path) -> Result<()> {
    let mut objcopy = Command::new("objcopy");
    let list = tempfile::NamedTempFile::new()?;
    objcopy.arg(format!("--dump-section=.dep-v0={}", list.path().display())).arg(program);
    capture(objcopy.arg("/dev/null"))?;
    let read = "import json,sys,zlib; \
                [print(package['name']) for package in \
                json.loads(zlib.decompress(open(sys.argv[1],'rb').read()))['packages']]";
    let names = capture(Command::new("python3").args(["-c", read]).arg(list.path()))?;
    for name in ["dynamo-http", "etcd-client", "hyper"] {
        let is_there = names.lines().any(|one| one == name);
        ensure!(is_there, "{} does not carry {name} in its list", program.display());
    }
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
