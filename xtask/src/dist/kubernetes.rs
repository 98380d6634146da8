//! `deploy/kubernetes`: kustomize renders it, and it is valid by the published schemas.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use super::outcome::Outcome;
use crate::{process::capture, workspace};

const FOLDERS: [&str; 3] = ["etcd-roles", "overlays/team-a", "overlays/team-b"];

/// The package of PyPI that has the schemas.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

pub(crate) fn check() -> Result<Outcome> {
    if capture(Command::new("kubectl").args(["version", "--client"])).is_err() {
        return Ok(Outcome::LeftOut("no kubectl here: `apt-get install kubernetes-client`".into()));
    }
    let rendered = tempfile::tempdir()?;
    let mut files = Vec::new();
    for folder in FOLDERS {
        let path = workspace::root().join("deploy/kubernetes").join(folder);
        let yaml = capture(Command::new("kubectl").arg("kustomize").arg(path))?;
        let file = rendered.path().join(folder.replace('/', "-") + ".yaml");
        std::fs::write(&file, yaml)?;
        files.push(file);
    }
    let validator = match validator() {
        Ok(validator) => validator,
        Err(error) => {
            let reason = format!("rendered, and not validated, without {VALIDATOR}: {error:#}");
            return Ok(Outcome::LeftOut(reason));
        }
    };
    capture(Command::new(validator).args(&files))?;
    Ok(Outcome::Done(format!("{FOLDERS:?} rendered and valid; monitors have no schema there")))
}

/// The validator in an environment of its own, kept between runs.
fn validator() -> Result<PathBuf> {
    let folder = workspace::tools()?.join(VALIDATOR);
    let program = |name: &str| folder.join("bin").join(name);
    if !program("kubernetes-validate").is_file() {
        capture(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        capture(Command::new(program("pip")).args(["install", "--quiet", VALIDATOR]))?;
    }
    Ok(program("kubernetes-validate"))
}
