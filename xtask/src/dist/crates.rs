//! The crates as `cargo publish` uploads them: each builds from its package, and so do its examples.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{folder::Dist, outcome::Outcome};
use crate::{
    packages::{self, Package},
    process, workspace,
};

fn published() -> Result<Vec<Package>> {
    Ok(packages::all()?.into_iter().filter(|package| package.is_published).collect())
}

/// Where cargo unpacks a package.
fn unpacked(dist: &Dist, package: &Package) -> Result<PathBuf> {
    Ok(workspace::target()?.join("package").join(format!("{}-{}", package.name, dist.version)))
}

/// Packages all of them and builds each from its package, as for an upload.
pub(crate) fn build() -> Result<Outcome> {
    let published = published()?;
    ensure!(!published.is_empty(), "no package is published");
    let mut cargo = workspace::cargo(["package", "--locked", "--allow-dirty"]);
    for package in &published {
        cargo.args(["--package", &package.name]);
    }
    println!("$ {}", process::shown(&cargo));
    process::run(&mut cargo)?;
    let names: Vec<_> = published.iter().map(|package| package.name.as_str()).collect();
    Ok(Outcome::Done(format!("{} build from their packages", names.join(", "))))
}

/// Builds the examples in each package. Our other crates are those of the packages too, since the registry
/// has them only after the upload.
pub(crate) fn check(dist: &Dist) -> Result<Outcome> {
    let published = published()?;
    let mut patches = Vec::new();
    for package in &published {
        let place = unpacked(dist, package)?;
        patches.push(format!("patch.crates-io.{}.path={:?}", package.name, place));
    }
    for package in &published {
        let manifest = unpacked(dist, package)?.join("Cargo.toml");
        let mut cargo = workspace::cargo(["build", "--examples", "--all-features"]);
        cargo.arg("--manifest-path").arg(manifest);
        cargo.arg("--target-dir").arg(workspace::target()?.join("package/examples"));
        // A package does not patch itself.
        let own = format!("patch.crates-io.{}.", package.name);
        for patch in patches.iter().filter(|patch| !patch.starts_with(&own)) {
            cargo.args(["--config", patch]);
        }
        println!("$ {}", process::shown(&cargo));
        process::run(&mut cargo)?;
    }
    Ok(Outcome::Done("the examples build in the packages".into()))
}
