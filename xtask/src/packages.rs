//! The packages of this workspace, their targets and their features, as `cargo metadata` tells them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{process::capture, workspace};

#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) is_published: bool,
    /// Each feature with what it enables: other features, dependencies, their features.
    pub(crate) features: BTreeMap<String, Vec<String>>,
    pub(crate) targets: Vec<Target>,
}

/// A thing that `cargo test` runs, or builds if it is an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) required_features: Vec<String>,
    /// The features of its package that its sources name.
    pub(crate) named_features: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The unit tests of a library.
    Lib,
    /// The examples in a library's documentation.
    Doc,
    /// The unit tests of a program.
    Bin,
    Example,
    /// The integration tests of one file.
    Test,
}

impl Package {
    /// The features that are on when these are asked for: they and all that they enable.
    pub(crate) fn enabled<'a>(
        &'a self,
        asked: impl IntoIterator<Item = &'a str>,
    ) -> BTreeSet<&'a str> {
        let mut enabled = BTreeSet::new();
        let mut next: Vec<_> = asked.into_iter().collect();
        while let Some(feature) = next.pop() {
            if let Some((feature, enables)) = self.features.get_key_value(feature)
                && enabled.insert(feature.as_str())
            {
                next.extend(enables.iter().map(String::as_str));
            }
        }
        enabled
    }

    /// Whether others can depend on it.
    pub(crate) fn has_library(&self) -> bool {
        self.targets.iter().any(|target| target.kind == Kind::Lib)
    }
}

/// All members of the workspace.
pub(crate) fn all() -> Result<Vec<Package>> {
    let printed =
        capture(&mut workspace::cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&printed)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    packages.iter().map(package).collect()
}

fn package(metadata: &Value) -> Result<Package> {
    let features: BTreeMap<String, Vec<String>> =
        serde_json::from_value(metadata["features"].clone())?;
    let mut targets = Vec::new();
    for target in metadata["targets"].as_array().into_iter().flatten() {
        for kind in kinds(target) {
            targets.push(Target {
                kind,
                name: text(&target["name"])?,
                required_features: strings(&target["required-features"]),
                named_features: named_features(Path::new(&text(&target["src_path"])?), &features)?,
            });
        }
    }
    let manifest = PathBuf::from(text(&metadata["manifest_path"])?);
    Ok(Package {
        name: text(&metadata["name"])?,
        folder: manifest.parent().context("a manifest is in a folder")?.into(),
        // An empty list is `publish = false`, and null is any registry.
        is_published: metadata["publish"].is_null(),
        features,
        targets,
    })
}

/// Benches are none of them: `cargo test` neither runs nor builds them.
fn kinds(target: &Value) -> Vec<Kind> {
    let is = |kind: &str| strings(&target["kind"]).iter().any(|one| one == kind);
    let (runs, is_library) = (target["test"] == true, is("lib"));
    let mut kinds = Vec::new();
    kinds.extend((is_library && runs).then_some(Kind::Lib));
    kinds.extend((is_library && target["doctest"] == true).then_some(Kind::Doc));
    kinds.extend((is("bin") && runs).then_some(Kind::Bin));
    kinds.extend((is("test") && runs).then_some(Kind::Test));
    kinds.extend(is("example").then_some(Kind::Example));
    kinds
}

/// Those features that stand in a `cfg` of a target's files: all files of its folder, unless the
/// folder is shared with other targets.
fn named_features(
    root: &Path,
    features: &BTreeMap<String, Vec<String>>,
) -> Result<BTreeSet<String>> {
    let owns_folder = root.file_stem().is_some_and(|stem| stem == "lib" || stem == "main");
    let text = match root.parent() {
        Some(folder) if owns_folder => text_of(folder)?,
        _ => fs::read_to_string(root)?,
    };
    let is_named = |feature: &&String| text.contains(&format!("feature = \"{feature}\""));
    Ok(features.keys().filter(is_named).cloned().collect())
}

fn text_of(folder: &Path) -> Result<String> {
    let mut all = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all += &text_of(&path)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            all += &fs::read_to_string(path)?;
        }
    }
    Ok(all)
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("cargo metadata lacks a name or a path")?.into())
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}
