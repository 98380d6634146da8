//! An etcd image without a registry: the machine's own binary and its libraries, `FROM scratch`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{binary, compose};
use crate::process::capture;

/// The path of the binary in upstream's images, which the compose file expects.
const PLACE: &str = "usr/local/bin/etcd";

/// Builds the image under the tag of the compose file, and returns the tag.
pub(crate) fn build() -> Result<String> {
    ensure!(compose::engine_runs(), "no Docker engine answers");
    let image = compose::image()?;
    of(&binary::provision(None)?, PLACE, &image)?;
    Ok(image)
}

/// Builds an image of one program, which stands at this place below the root.
pub(crate) fn of(binary: &Path, place: &str, image: &str) -> Result<()> {
    let context = tempfile::tempdir()?;
    let root = context.path().join("root");
    let path = root.join(place);
    copy(binary, &path)?;
    // A fetched binary may lack the executable bit.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    for library in libraries(binary)? {
        copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    fs::write(
        context.path().join("Dockerfile"),
        format!("FROM scratch\nCOPY root/ /\nENTRYPOINT []\nCMD [\"/{place}\"]\n"),
    )?;
    capture(Command::new("docker").args(["build", "--tag", image]).arg(context.path()))?;
    Ok(())
}

/// Builds the image unless the engine has it.
pub(crate) fn build_if_absent() -> Result<()> {
    if !compose::image_is_there()? {
        build()?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The libraries that the loader maps, and the loader itself; empty for a static binary.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    // For a static binary, ldd fails on some systems and prints a text on others.
    let output = Command::new("ldd").arg(binary).env("LC_ALL", "C").output();
    let output = output.context("cannot run ldd")?;
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

/// The path in a line of ldd: `libc.so.6 => /lib/libc.so.6 (0x…)` or
/// `/lib64/ld-linux-x86-64.so.2 (0x…)`. A library of the kernel has no path.
fn paths(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.lines().flat_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_among_the_libraries() {
        let ldd = "\tlinux-vdso.so.1 (0x00007fce43b93000)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fce439a0000)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007fce43b95000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(ldd), expected.map(PathBuf::from));
        assert_eq!(paths("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
