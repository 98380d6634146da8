//! etcd in a container, by `tests/compose.yaml`, under a project name of this run.

use std::{
    env,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{self, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use super::ready;
use crate::{process::capture, workspace};

/// Overrides the image that the compose file names.
const IMAGE_VAR: &str = "DYN_ETCD_IMAGE";

const COMPOSE_FILE: &str = "tests/compose.yaml";

/// The image of a run: the environment's, else the compose file's default.
pub(crate) fn image() -> Result<String> {
    if let Some(image) = env::var(IMAGE_VAR).ok().filter(|image| !image.is_empty()) {
        return Ok(image);
    }
    let path = workspace::root().join(COMPOSE_FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    default_image(&text)
        .map(Into::into)
        .with_context(|| format!("{COMPOSE_FILE} holds no ${{{IMAGE_VAR}:-IMAGE}}"))
}

fn default_image(compose_file: &str) -> Option<&str> {
    let (_, rest) = compose_file.split_once(&format!("${{{IMAGE_VAR}:-"))?;
    rest.split_once('}').map(|(image, _)| image)
}

/// Whether a Docker engine answers.
pub(crate) fn engine_runs() -> bool {
    capture(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"])).is_ok()
}

/// Whether the engine has the image.
pub(crate) fn image_is_there() -> Result<bool> {
    Ok(capture(Command::new("docker").args(["image", "inspect", &image()?])).is_ok())
}

/// Whether a run has all that it needs on this machine: the engine and the image.
pub(crate) fn ready_to_run() -> bool {
    engine_runs() && image_is_there().unwrap_or(false) && compose_command().is_ok()
}

/// The command: `docker compose`, else the older `docker-compose`.
pub(crate) fn compose_command() -> Result<&'static [&'static str]> {
    let spellings: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    for spelling in spellings {
        if capture(command(spelling).arg("version")).is_ok() {
            return Ok(spelling);
        }
    }
    bail!("neither `docker compose` nor `docker-compose` is here")
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// A compose project. Its drop removes the project's containers.
#[derive(Debug)]
pub(crate) struct Compose {
    spelling: &'static [&'static str],
    project: String,
}

impl Compose {
    pub(crate) fn up() -> Result<Self> {
        if !engine_runs() {
            bail!("no Docker engine answers; use --etcd local");
        }
        let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let project = format!("dyn-itest-{}-{started}", process::id());
        // The value exists before `up`, so that its drop also removes what a failed `up` has left.
        let compose = Self { spelling: compose_command()?, project };
        capture(compose.command().args(["up", "--detach"])).with_context(|| {
            "etcd's container does not start; without a registry, `cargo xtask etcd-image` builds its image"
        })?;
        ready::wait(&compose.endpoint()?, || Ok(()))?;
        Ok(compose)
    }

    pub(crate) fn project(&self) -> &str {
        &self.project
    }

    pub(crate) fn endpoint(&self) -> Result<String> {
        let address = capture(self.command().args(["port", "etcd", "2379"]))?;
        Ok(format!("http://{}", address.trim()))
    }

    fn command(&self) -> Command {
        let mut command = command(self.spelling);
        let file: PathBuf = workspace::root().join(COMPOSE_FILE);
        command.args(["--project-name", &self.project, "--file"]).arg(file);
        command
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let mut down = self.command();
        down.args(["down", "--volumes", "--remove-orphans", "--timeout", "1"]);
        // The command runs outside of the terminal's process group, and not by `capture`, since an
        // interrupt must not stop it.
        let ended = down.stdin(Stdio::null()).process_group(0).output();
        if !ended.is_ok_and(|output| output.status.success()) {
            eprintln!("warning: the compose project {} is still there", self.project);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compose_file_names_the_image() {
        let text = std::fs::read_to_string(workspace::root().join(COMPOSE_FILE)).unwrap();
        assert!(default_image(&text).unwrap().contains("etcd:v3."));
    }
}
