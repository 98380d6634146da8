//! The licences of all that the programs are linked from, in one file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::folder::{TARGET, copy, write};
use crate::{process::capture, workspace};

/// Writes the project's own licence, and those of its dependencies.
pub(crate) fn write_all(tree: &Path) -> Result<()> {
    let folder = tree.join("share/licenses/dynamo-namespace");
    copy(&workspace::root().join("LICENSE"), &folder.join("LICENSE"))?;
    write(&folder.join("THIRD-PARTY"), third_party()?)
}

fn third_party() -> Result<String> {
    let folders = folders()?;
    let tree = ["tree", "--package", "dynamo-cli", "--edges", "normal", "--prefix", "none"];
    let mut command = workspace::cargo(tree);
    let tree = capture(command.args(["--target", TARGET, "--format", "{p}\t{l}"]))?;
    let mut packages: Vec<_> = tree.lines().filter_map(package).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut page = String::from(
        "The programs are linked from the packages below, from the standard library of Rust\n\
         (MIT OR Apache-2.0, https://www.rust-lang.org) and from musl (MIT, https://musl.libc.org).\n",
    );
    for (package, licence) in packages {
        let folder = folders.get(package).with_context(|| format!("where is {package}?"))?;
        // Writing to a string cannot fail.
        let _ = write!(page, "\n{0}\n{package}: {licence}\n{0}\n", "=".repeat(78));
        for text in texts(folder)? {
            let _ = write!(page, "\n{}\n", text.trim_end());
        }
    }
    Ok(page)
}

/// A line of `cargo tree` without the workspace's own packages, which have a path: the package as
/// `NAME vVERSION`, and its licence.
fn package(line: &str) -> Option<(&str, &str)> {
    let (package, licence) = line.split_once('\t')?;
    let licence = licence.trim_end_matches("(*)").trim();
    let package = package.strip_suffix(" (proc-macro)").unwrap_or(package);
    (!package.contains('(')).then_some((package, licence))
}

/// Where each package's sources are, by `NAME vVERSION`.
fn folders() -> Result<BTreeMap<String, PathBuf>> {
    let metadata = capture(&mut workspace::cargo(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let folder = |package: &Value| {
        let (name, version) = (package["name"].as_str()?, package["version"].as_str()?);
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?;
        Some((format!("{name} v{version}"), folder.to_owned()))
    };
    Ok(packages.iter().filter_map(folder).collect())
}

/// The files of a package that are about its licence.
fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut paths: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let is_about_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let begins = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
        path.is_file() && begins.iter().any(|begin| name.starts_with(begin))
    };
    paths
        .into_iter()
        .filter(is_about_it)
        .map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_the_workspace_needs_no_mention_and_others_have_a_licence() {
        let path = "dynamo-http v0.1.0 (/source/crates/dynamo-http)\tApache-2.0";
        assert_eq!(package(path), None);
        let twice = "bytes v1.11.0\tMIT (*)";
        assert_eq!(package(twice), Some(("bytes v1.11.0", "MIT")));
        let of_the_compiler = "async-trait v0.1.89 (proc-macro)\tMIT OR Apache-2.0";
        assert_eq!(package(of_the_compiler), Some(("async-trait v0.1.89", "MIT OR Apache-2.0")));
    }
}
