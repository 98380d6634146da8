//! A call of `cargo test`, as a row of a table.

use std::{collections::BTreeSet, process::Command};

use crate::{
    packages::{Kind, Package, Target},
    workspace,
};

/// Tests of one package. A package is tested alone, since a build of the whole workspace would unify
/// the features and hide a missing one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) package: &'static str,
    pub(crate) features: Features,
    pub(crate) targets: Targets,
}

/// The features that a row turns on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Features {
    Default,
    None,
    All,
}

/// The targets that a row runs, of those whose required features are on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Targets {
    All,
    Lib,
    Doc,
    /// The integration tests of one file.
    Test(&'static str),
    /// The tests in one example.
    Example(&'static str),
}

impl Row {
    pub(crate) const fn of(package: &'static str, features: Features, targets: Targets) -> Self {
        Self { package, features, targets }
    }

    pub(crate) fn command(self) -> Command {
        let mut command = workspace::cargo(["test", "-p", self.package]);
        match self.features {
            Features::Default => &mut command,
            Features::None => command.arg("--no-default-features"),
            Features::All => command.arg("--all-features"),
        };
        match self.targets {
            Targets::All => &mut command,
            Targets::Lib => command.arg("--lib"),
            Targets::Doc => command.arg("--doc"),
            Targets::Test(name) => command.args(["--test", name]),
            Targets::Example(name) => command.args(["--example", name]),
        };
        command
    }

    /// The features of its package that are on.
    pub(crate) fn enabled(self, package: &Package) -> BTreeSet<&str> {
        match self.features {
            Features::None => BTreeSet::new(),
            Features::Default => package.enabled(["default"]),
            Features::All => package.enabled(package.features.keys().map(String::as_str)),
        }
    }

    /// Whether it runs a target of its package.
    pub(crate) fn runs(self, package: &Package, target: &Target) -> bool {
        let is_chosen = match self.targets {
            Targets::All => true,
            Targets::Lib => target.kind == Kind::Lib,
            Targets::Doc => target.kind == Kind::Doc,
            Targets::Test(name) => target.kind == Kind::Test && target.name == name,
            Targets::Example(name) => target.kind == Kind::Example && target.name == name,
        };
        let enabled = self.enabled(package);
        let is_on = |feature: &String| enabled.contains(feature.as_str());
        is_chosen && target.required_features.iter().all(is_on)
    }
}
