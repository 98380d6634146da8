//! Whether the features of our libraries are additive: a crate that depends on all of them is checked
//! with their combinations, and no combination may cause a warning.
//!
//! All combinations of one library's features are tried, once with no feature of the other libraries
//! and once with all of them. A feature that breaks the crate or a library is not additive, since a
//! user cannot keep other crates from turning it on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    packages::{self, Package},
    process::{self, Output},
    workspace,
};

/// The source of the crate.
const SOURCE: &str = "xtask/downstream.rs";

/// What it depends on beside our libraries; both are in the graph of each of them.
const DEPENDENCIES: &str = "async-trait = \"0.1\"\nfutures-util = \"0.3\"\n";

/// The features of each library that are on.
type Combination = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn check() -> Result<()> {
    let mut libraries = packages::all()?;
    libraries.retain(|one| one.is_published && one.has_library() && !one.features.is_empty());
    let folder = generate(&libraries)?;
    for combination in combinations(&libraries) {
        println!("  {}", shown(&combination));
        let mut command = command(&folder, &combination)?;
        let Output { status, stdout, stderr } = process::output(&mut command)?;
        let diagnostics = diagnostics(&stdout);
        ensure!(diagnostics.is_empty(), "{}:\n{diagnostics}", process::shown(&command));
        if !status.success() {
            bail!("{}: {status}\n{stderr}", process::shown(&command));
        }
    }
    Ok(())
}

/// Writes the manifest below the target directory. Each feature of a library is one of the crate.
fn generate(libraries: &[Package]) -> Result<PathBuf> {
    let folder = workspace::target()?.join("downstream");
    fs::create_dir_all(&folder)?;
    // The same versions as everywhere, so that nothing is fetched and most is built already.
    fs::copy(workspace::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    let manifest = manifest(libraries, &workspace::root().join(SOURCE));
    fs::write(folder.join("Cargo.toml"), manifest).context("cannot write the manifest")?;
    Ok(folder)
}

fn manifest(libraries: &[Package], source: &Path) -> String {
    // The profile is the workspace's, or all dependencies would be built once more.
    let mut text = format!(
        "[package]\nname = \"downstream\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [lib]\npath = {source:?}\n\n[workspace]\n\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n\n[dependencies]\n{DEPENDENCIES}"
    );
    for Package { name, folder, .. } in libraries {
        text += &format!("{name} = {{ path = {folder:?}, default-features = false }}\n");
    }
    text += "\n[features]\n";
    for Package { name, features, .. } in libraries {
        for feature in features.keys() {
            text += &format!("\"{name}--{feature}\" = [\"{name}/{feature}\"]\n");
        }
    }
    text
}

fn command(folder: &Path, combination: &Combination) -> Result<Command> {
    let mut command = workspace::cargo(["check", "--offline", "--message-format", "json"]);
    command.arg("--manifest-path").arg(folder.join("Cargo.toml"));
    command.arg("--target-dir").arg(workspace::target()?);
    let chosen = combination.iter().flat_map(|(library, features)| {
        features.iter().map(move |feature| format!("{library}--{feature}"))
    });
    command.arg("--features").arg(chosen.collect::<Vec<_>>().join(","));
    Ok(command)
}

/// Warnings and errors, as the compiler words them. Cargo repeats those of an earlier run.
fn diagnostics(stdout: &str) -> String {
    let messages = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let messages = messages.filter(|message| message["reason"] == "compiler-message");
    messages
        .filter(|message| message["message"]["level"] != "note")
        .filter_map(|message| message["message"]["rendered"].as_str().map(ToOwned::to_owned))
        .collect()
}

/// Each set of features that somebody can turn on in one library, beside none and beside all of the
/// others.
fn combinations(libraries: &[Package]) -> BTreeSet<Combination> {
    let mut combinations = BTreeSet::new();
    for varied in libraries {
        for features in sets(varied) {
            for all_others in [false, true] {
                let others = libraries.iter().map(|other| {
                    let names = choices(other).filter(|_| all_others);
                    (other.name.clone(), owned(&other.enabled(names)))
                });
                let mut combination: Combination = others.collect();
                combination.insert(varied.name.clone(), features.clone());
                combinations.insert(combination);
            }
        }
    }
    combinations
}

/// Every set of a library's features that holds all that they enable.
fn sets(library: &Package) -> BTreeSet<BTreeSet<String>> {
    let mut sets = BTreeSet::from([BTreeSet::new()]);
    for feature in choices(library) {
        let with = |set: &BTreeSet<String>| {
            let asked = set.iter().map(String::as_str).chain([feature]);
            owned(&library.enabled(asked))
        };
        let grown: Vec<_> = sets.iter().map(with).collect();
        sets.extend(grown);
    }
    sets
}

/// The features of a library. `default` is none of its own, but a name for some of them.
fn choices(library: &Package) -> impl Iterator<Item = &str> {
    library.features.keys().map(String::as_str).filter(|feature| *feature != "default")
}

fn owned(names: &BTreeSet<&str>) -> BTreeSet<String> {
    names.iter().map(|&name| name.into()).collect()
}

fn shown(combination: &Combination) -> String {
    let library = |(name, features): (&String, &BTreeSet<String>)| {
        let features: Vec<_> = features.iter().map(String::as_str).collect();
        format!("{name} [{}]", features.join(" "))
    };
    combination.iter().map(library).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, features: &[(&str, &[&str])]) -> Package {
        let owned = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        let features = features.iter().map(|(name, enables)| ((*name).into(), owned(enables)));
        Package { name: name.into(), features: features.collect(), ..Package::default() }
    }

    #[test]
    fn sets_hold_what_their_features_enable_and_each_comes_once() {
        let library =
            library("http", &[("default", &["proxy"]), ("proxy", &["dep:a"]), ("tls", &["proxy"])]);
        let sets: Vec<_> = sets(&library).into_iter().map(Vec::from_iter).collect();
        let expected: [&[&str]; 3] = [&[], &["proxy"], &["proxy", "tls"]];
        assert_eq!(sets, expected);
    }

    #[test]
    fn each_set_is_tried_beside_none_and_beside_all_features_of_the_others() {
        let libraries = [library("a", &[("x", &[])]), library("b", &[("y", &[]), ("z", &[])])];
        let shown: Vec<_> = combinations(&libraries).iter().map(shown).collect();
        let expected = [
            "a [], b []",
            "a [], b [y]",
            "a [], b [y z]",
            "a [], b [z]",
            "a [x], b []",
            "a [x], b [y]",
            "a [x], b [y z]",
            "a [x], b [z]",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_warning_is_a_diagnostic_and_an_artifact_is_none() {
        let warning = r#"{"reason":"compiler-message","message":{"level":"warning","rendered":"warning: unused\n"}}"#;
        let artifact = r#"{"reason":"compiler-artifact","fresh":true}"#;
        assert_eq!(diagnostics(&format!("{artifact}\n{warning}\n")), "warning: unused\n");
        assert_eq!(diagnostics(artifact), "");
    }
}
