//! Whether `cargo xtask ci` runs everything that can be run.
//!
//! - Every target runs in some row: unit tests, integration tests, examples in the documentation;
//!   files in `examples` are built.
//! - Every target runs with each feature that its sources name, and without it.
//! - Every feature is on in some row.

use anyhow::{Result, bail};

use crate::{
    packages::{self, Kind, Package, Target},
    row::Row,
};

/// Checks the members of this workspace against the rows that `ci` runs.
pub(crate) fn check(rows: &[Row]) -> Result<()> {
    let packages = packages::all()?;
    let lines = uncovered(&packages, rows);
    let targets: usize = packages.iter().map(|package| package.targets.len()).sum();
    println!("  {targets} targets of {} packages in {} rows", packages.len(), rows.len());
    if lines.is_empty() {
        return Ok(());
    }
    bail!("no row of the tables in ci.rs and itest.rs covers this:\n{}", lines.join("\n"));
}

fn uncovered(packages: &[Package], rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for package in packages {
        let rows: Vec<_> = rows.iter().filter(|row| row.package == package.name).collect();
        let missing = package.targets.iter().flat_map(|target| missing(package, target, &rows));
        lines.extend(missing.map(|what| format!("{}: {what}", package.name)));
        for feature in package.features.keys() {
            if !rows.iter().any(|row| row.enabled(package).contains(feature.as_str())) {
                lines.push(format!("{}: the feature {feature}", package.name));
            }
        }
    }
    lines
}

/// The ways in which a target should run and does not.
fn missing(package: &Package, target: &Target, rows: &[&Row]) -> Vec<String> {
    let shown = shown(target);
    let runs: Vec<_> = rows
        .iter()
        .filter(|row| row.runs(package, target))
        .map(|row| row.enabled(package))
        .collect();
    if runs.is_empty() {
        return vec![shown];
    }
    let mut missing = Vec::new();
    for feature in &target.named_features {
        let with = runs.iter().filter(|enabled| enabled.contains(feature.as_str())).count();
        // What is required is always on.
        let is_required = package
            .enabled(target.required_features.iter().map(String::as_str))
            .contains(feature.as_str());
        if with == 0 {
            missing.push(format!("{shown} with the feature {feature}"));
        }
        if with == runs.len() && !is_required {
            missing.push(format!("{shown} without the feature {feature}"));
        }
    }
    missing
}

fn shown(target: &Target) -> String {
    let name = &target.name;
    match target.kind {
        Kind::Lib => "the unit tests".into(),
        Kind::Doc => "the examples in the documentation".into(),
        Kind::Bin => format!("the unit tests of the program {name}"),
        Kind::Example => format!("the example {name}"),
        Kind::Test => format!("the test {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Features, Targets};

    fn target(kind: Kind, name: &str, required: &[&str], named: &[&str]) -> Target {
        let owned = |names: &[&str]| names.iter().map(|&name| name.into()).collect::<Vec<_>>();
        Target {
            kind,
            name: name.into(),
            required_features: owned(required),
            named_features: owned(named).into_iter().collect(),
        }
    }

    /// A package with a default feature, one that needs the default one, and a target of each kind.
    fn package() -> Package {
        let features = [("default", vec!["front"]), ("front", vec![]), ("tls", vec!["front"])];
        let owned = |names: Vec<&str>| names.into_iter().map(Into::into).collect();
        Package {
            name: "p".into(),
            features: features.map(|(name, enables)| (name.into(), owned(enables))).into(),
            targets: vec![
                target(Kind::Lib, "p", &[], &["front", "tls"]),
                target(Kind::Doc, "p", &[], &[]),
                target(Kind::Bin, "b", &[], &[]),
                target(Kind::Example, "e", &[], &[]),
                target(Kind::Test, "plain", &[], &[]),
                target(Kind::Test, "secure", &["tls"], &["tls"]),
            ],
            ..Package::default()
        }
    }

    fn uncovered_by(rows: &[(Features, Targets)]) -> Vec<String> {
        let row = |&(features, targets): &_| Row::of("p", features, targets);
        uncovered(&[package()], &rows.iter().map(row).collect::<Vec<_>>())
    }

    const EVERYTHING: (Features, Targets) = (Features::All, Targets::All);
    const NO_FEATURES: (Features, Targets) = (Features::None, Targets::Lib);

    #[test]
    fn rows_with_all_features_and_with_none_cover_everything() {
        assert_eq!(uncovered_by(&[EVERYTHING, NO_FEATURES]), Vec::<String>::new());
    }

    #[test]
    fn a_target_that_runs_in_no_row_is_found() {
        let rows = [(Features::All, Targets::Lib), NO_FEATURES, (Features::All, Targets::Doc)];
        let expected = [
            "p: the unit tests of the program b",
            "p: the example e",
            "p: the test plain",
            "p: the test secure",
        ];
        assert_eq!(uncovered_by(&rows), expected);
        let rows = [(Features::All, Targets::Test("plain")), (Features::All, Targets::Doc)];
        assert!(uncovered_by(&rows).contains(&"p: the unit tests".to_owned()));
        let rows = [(Features::All, Targets::Lib)];
        assert!(uncovered_by(&rows).contains(&"p: the examples in the documentation".to_owned()));
    }

    #[test]
    fn a_target_whose_required_feature_is_off_in_all_rows_is_found() {
        let rows = [(Features::Default, Targets::All), (Features::All, Targets::Lib)];
        assert_eq!(
            uncovered_by(&rows),
            ["p: the unit tests without the feature front", "p: the test secure"]
        );
    }

    #[test]
    fn a_feature_with_which_or_without_which_the_tests_never_run_is_found() {
        assert_eq!(
            uncovered_by(&[EVERYTHING]),
            [
                "p: the unit tests without the feature front",
                "p: the unit tests without the feature tls"
            ]
        );
        let rows = [(Features::Default, Targets::All), (Features::All, Targets::Test("secure"))];
        assert_eq!(
            uncovered_by(&[NO_FEATURES, rows[0], rows[1]]),
            ["p: the unit tests with the feature tls"]
        );
    }

    #[test]
    fn a_feature_that_is_on_in_no_row_is_found() {
        let mut package = package();
        package.features.insert("more".into(), Vec::new());
        let rows = [Row::of("p", Features::Default, Targets::All)];
        let lines = uncovered(&[package], &rows);
        assert!(lines.contains(&"p: the feature more".to_owned()), "{lines:?}");
        assert!(lines.contains(&"p: the feature tls".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_package_without_a_row_is_found() {
        let rows = [Row::of("other", Features::All, Targets::All)];
        assert_eq!(uncovered(&[package()], &rows).len(), 6 + 3);
    }
}
