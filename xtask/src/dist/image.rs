//! The container image: the last stage of `deploy/Dockerfile`, with the programs of `target/dist` in
//! place of those that its first stage would build. Nothing is pulled.

use std::{
    fs,
    path::Path,
    process::{self, Command},
};

use anyhow::{Context, Result, ensure};

use super::{
    folder::{ARCHITECTURE, Dist, NAME, PROGRAMS, copy, write},
    outcome::{Outcome, made},
    trial,
};
use crate::{
    etcd::engine_runs,
    process::{Group, Service, capture, output},
    workspace,
};

/// The image's name on this machine.
pub(crate) const TAG: &str = "dynamo:dist";

/// The authorities of this machine, where the programs look for them in the image, too.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

const NO_ENGINE: &str = "no Docker engine answers";

pub(crate) fn build(dist: &Dist) -> Result<Outcome> {
    if !engine_runs() {
        return Ok(Outcome::LeftOut(NO_ENGINE.into()));
    }
    let context = dist.scratch("image")?;
    for program in PROGRAMS {
        let place = context.join("root/usr/local/bin").join(program);
        copy(&dist.tree.join("bin").join(program), &place)?;
    }
    copy(Path::new(AUTHORITIES), &context.join("root").join(&AUTHORITIES[1..]))
        .context("`apt-get install ca-certificates`")?;
    copy(&workspace::root().join("LICENSE"), &context.join("root/LICENSE"))?;
    let file = fs::read_to_string(workspace::root().join("deploy/Dockerfile"))?;
    write(&context.join("Dockerfile"), runtime(&file).context("deploy/Dockerfile has no stage")?)?;
    capture(Command::new("docker").args(["build", "--tag", TAG]).arg(&context))?;
    fs::remove_dir_all(&context)?;
    let archive = dist.file(&format!("{NAME}-{}-{ARCHITECTURE}-image.tar.gz", dist.version));
    let mut save = Command::new("sh");
    save.args(["-c", "docker save \"$1\" | gzip -9n > \"$2\"", "sh", TAG]).arg(&archive);
    capture(&mut save)?;
    made(&archive)
}

/// The last stage, which takes its files from the context and not from an earlier stage.
fn runtime(file: &str) -> Option<String> {
    let stage = file.find("\nFROM scratch\n")?;
    let copies = "COPY --from=build /out/ /";
    file[stage..].contains(copies).then(|| file[stage..].replace(copies, "COPY root/ /"))
}

pub(crate) fn check(dist: &Dist) -> Result<Outcome> {
    if !engine_runs() {
        return Ok(Outcome::LeftOut(NO_ENGINE.into()));
    }
    if let Some(reason) = engine_fails()? {
        return Ok(Outcome::LeftOut(reason));
    }
    let inspect = ["image", "inspect", "--format", "{{.Config.User}} {{.Config.StopSignal}}", TAG];
    let told = capture(Command::new("docker").args(inspect))?;
    ensure!(told.trim() == "65532:65532 SIGTERM", "user and signal of the image: {told}");
    let shell = Command::new("docker").args(["run", "--rm", TAG, "sh", "-c", "true"]).output()?;
    ensure!(!shell.status.success(), "the image has a shell");
    let told = trial::run(dist, &Containers)?;
    Ok(Outcome::Done(format!("read-only, no capability, by `docker stop`: {told}")))
}

/// Why the engine cannot run containers, though it builds images: some machines lack what its
/// storage needs. Docker's own failures have an exit code of their own.
pub(crate) fn engine_fails() -> Result<Option<String>> {
    let mut command = Command::new("docker");
    let output = output(command.args(["run", "--rm", TAG, PROGRAMS[0], "-V"]))?;
    let reason = output.stderr.lines().next().unwrap_or_default();
    let fails = output.status.code() == Some(125);
    Ok(fails.then(|| format!("the Docker engine runs no container: {reason}")))
}

/// Each program in a container of its own, with no right that it could do without.
#[derive(Debug)]
struct Containers;

impl Containers {
    fn container(program: &str) -> String {
        format!("dyn-dist-{}-{program}", process::id())
    }
}

impl trial::Place for Containers {
    fn name(&self) -> &'static str {
        "image"
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--network=host", "--read-only", "--cap-drop=ALL"]);
        command.args(["--security-opt=no-new-privileges", "--name", &Self::container(program)]);
        command.args([TAG, program]);
        command
    }

    fn stop(&self, program: &str, _service: &Service) -> Result<Option<Group>> {
        let mut command = Command::new("docker");
        command.args(["stop", "--time=45", &Self::container(program)]);
        Group::spawn(command.stdout(process::Stdio::null())).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_is_built_here_is_the_last_stage_of_the_file_for_everyone() {
        let file = fs::read_to_string(workspace::root().join("deploy/Dockerfile")).unwrap();
        let stage = runtime(&file).unwrap();
        assert!(stage.contains("COPY root/ /\n") && !stage.contains("build"), "{stage}");
        assert_eq!(stage.matches("FROM").count(), 1);
    }
}
