//! `cargo xtask version VERSION`: a new version everywhere it stands, and in the changelog.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{process::capture, workspace};

const CHANGELOG: &str = "CHANGELOG.md";

const UNRELEASED: &str = "## [Unreleased]\n";

/// Where the version stands: a file, and the text around the version, which is `{}`.
const PLACES: [(&str, &[&str]); 6] = [
    ("Cargo.toml", &["version = \"{}\""]),
    ("README.md", &["dynamo-namespace_{}_amd64", "dynamo-namespace-{}-x86_64"]),
    ("docs/guide.md", &["dynamo-namespace_{}_amd64"]),
    ("docs/releasing.md", &["git tag --sign v{}`", "dynamo-namespace-{}-amd64", "dynamo:{}`"]),
    ("deploy/kubernetes/overlays/team-a/kustomization.yaml", &["newTag: {}}"]),
    ("deploy/kubernetes/overlays/team-b/kustomization.yaml", &["newTag: {}}"]),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The new version, for instance 0.2.0
    version: String,
}

/// Changes all places, and then the lockfile.
pub(crate) fn run(args: &Args) -> Result<()> {
    let is_one = args.version.split('.').count() == 3
        && args.version.split('.').all(|part| part.parse::<u32>().is_ok());
    ensure!(is_one, "{:?} is no version: three numbers with dots between", args.version);
    let old = current()?;
    let today = capture(Command::new("date").args(["--utc", "+%F"]))?;
    // Every file is read and understood before one is written.
    let mut changed = Vec::new();
    for (file, places) in PLACES {
        let text = fs::read_to_string(workspace::root().join(file)).context(file)?;
        changed.push((file, replaced(&text, places, &old, &args.version).context(file)?));
    }
    let changelog = fs::read_to_string(workspace::root().join(CHANGELOG))?;
    changed.push((CHANGELOG, released(&changelog, &args.version, today.trim())?));
    for (file, text) in changed {
        fs::write(workspace::root().join(file), text)?;
        println!("  {file}");
    }
    capture(&mut workspace::cargo(["update", "--workspace", "--offline"]))?;
    println!("{old} is {} now; look at the difference and commit it", args.version);
    Ok(())
}

/// The version of the workspace, which all crates share.
pub(crate) fn current() -> Result<String> {
    let manifest = fs::read_to_string(workspace::root().join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    Ok(line.context("Cargo.toml has no version")?.trim_matches('"').to_owned())
}

/// The text with the new version in each place; a place that is not there has moved, and is an error.
fn replaced(text: &str, places: &[&str], old: &str, new: &str) -> Result<String> {
    let mut text = text.to_owned();
    for place in places {
        let (from, to) = (place.replacen("{}", old, 1), place.replacen("{}", new, 1));
        ensure!(text.contains(&from), "there is no {from:?}");
        text = text.replace(&from, &to);
    }
    Ok(text)
}

/// The changelog, in which what was unreleased is this version.
fn released(changelog: &str, version: &str, day: &str) -> Result<String> {
    ensure!(changelog.contains(UNRELEASED), "{CHANGELOG} has no {UNRELEASED:?}");
    let heading = format!("{UNRELEASED}\n## [{version}] - {day}\n");
    Ok(changelog.replacen(UNRELEASED, &heading, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_the_version_is_where_it_is_looked_for() {
        let old = current().unwrap();
        for (file, places) in PLACES {
            let text = fs::read_to_string(workspace::root().join(file)).unwrap();
            let changed = replaced(&text, places, &old, "99.0.1").unwrap();
            assert!(changed.contains("99.0.1"), "{file}");
        }
    }

    #[test]
    fn a_place_that_has_moved_is_an_error_and_other_numbers_stay() {
        let text = "version = \"0.1.0\"\nother = \"0.1.0\"\n";
        let changed = replaced(text, &["version = \"{}\""], "0.1.0", "0.2.0").unwrap();
        assert_eq!(changed, "version = \"0.2.0\"\nother = \"0.1.0\"\n");
        assert!(replaced(text, &["newTag: {}"], "0.1.0", "0.2.0").is_err());
    }

    #[test]
    fn what_was_unreleased_is_the_new_version() {
        let changelog = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n";
        let expected = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-01-02\n\n### Added\n\n- A thing.\n";
        assert_eq!(released(changelog, "0.2.0", "2026-01-02").unwrap(), expected);
    }
}
