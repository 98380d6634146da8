//! The files in `deploy`: settings that the programs take, and units with no more rights than needed.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use dynamo_tests::Program;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A unit, with long lines joined.
struct Unit {
    name: &'static str,
    text: String,
}

/// A variable that mimalloc reads, and no program of ours.
const OF_THE_ALLOCATOR: &str = "MIMALLOC_ALLOW_THP";

impl Unit {
    fn all() -> [Self; 2] {
        ["dynamo-frontend.service", "dynamo-worker.service"].map(|name| {
            let text = std::fs::read_to_string(deploy().join("systemd").join(name)).unwrap();
            Self { name, text: text.replace("\\\n", "") }
        })
    }

    fn has(&self, line: &str) -> bool {
        self.text.lines().any(|one| one == line)
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.text.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// The program, its arguments, and the name of its file.
    fn command(&self) -> (String, Vec<&str>) {
        let mut words = self.values("ExecStart").next().unwrap().split_whitespace();
        let program = words.next().unwrap().rsplit('/').next().unwrap();
        (program.to_owned(), words.take_while(|word| *word != "--").collect())
    }
}

#[test]
fn the_units_name_flags_and_variables_that_the_programs_take() {
    for unit in &Unit::all() {
        let (program, arguments) = unit.command();
        let help = Command::new(Program::path(&program)).args(arguments).arg("--help").output();
        let help = help.unwrap();
        assert!(help.status.success(), "{}: {help:?}", unit.name);
        let help = String::from_utf8(help.stdout).unwrap();
        for variable in unit.values("Environment") {
            let name = variable.split('=').next().unwrap();
            let is_known = help.contains(name) || name == OF_THE_ALLOCATOR;
            assert!(is_known, "{}: {name}", unit.name);
        }
    }
}

#[test]
fn the_units_run_without_the_rights_of_root_and_end_in_order() {
    for unit in &Unit::all() {
        for line in ["User=dynamo", "LimitNOFILE=65536", "Restart=on-failure"] {
            assert!(unit.has(line), "{}: {line}", unit.name);
        }
    }
    let [frontend, worker] = Unit::all();
    for line in ["ExecReload=/bin/kill -HUP $MAINPID", "RestartPreventExitStatus=2"] {
        assert!(frontend.has(line), "{line}");
    }
    let state = frontend.values("StateDirectory").next().unwrap();
    assert!(frontend.has(&format!("Environment=DYN_STATE_FILE=%S/{state}/models.state")));
    assert!(worker.has("KillMode=mixed"), "the worker ends its engine itself");
}

#[test]
fn the_default_settings_can_be_used() {
    for program in ["dynamo-frontend", "dynamo-worker"] {
        let name = program.trim_start_matches("dynamo-");
        let file = deploy().join("etc/dynamo").join(format!("{name}.yaml"));
        let mut command = Command::new(Program::path(program));
        let checked = command.args(["config", "check"]).arg(file).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn the_pods_of_kubernetes_name_flags_that_the_programs_take() {
    for program in ["dynamo-frontend", "dynamo-worker"] {
        let name = program.trim_start_matches("dynamo-");
        let file = deploy().join("kubernetes/base").join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(file).unwrap();
        let flags = text.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        let flags: Vec<_> =
            flags.take_while(|flag| !flag.is_empty()).map(|flag| format!("--{flag}")).collect();
        assert!(flags.len() > 2, "{flags:?}");
        let help = Command::new(Program::path(program)).args(&flags).arg("--help").output();
        let help = help.unwrap();
        assert!(help.status.success(), "{flags:?}: {help:?}");
    }
}

/// systemd's own opinion, where it is there.
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    for unit in Unit::all() {
        let (program, _) = unit.command();
        let installed = format!("/usr/bin/{program}");
        let built = Program::path(&program).display().to_string();
        let path = folder.path().join(unit.name);
        std::fs::write(&path, unit.text.replace(&installed, &built)).unwrap();
        let analyze = |arguments: &[&str]| {
            Command::new("systemd-analyze").args(arguments).arg(&path).output().ok()
        };
        let Some(verified) = analyze(&["verify", "--man=no"]) else {
            println!("there is no systemd-analyze on this machine");
            return;
        };
        let told = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && told.is_empty(), "{}: {told}", unit.name);
        // Its measure of what a program could do to the machine: 10 is all, 3 is the limit here.
        let exposure = analyze(&["security", "--offline=true", "--threshold=30"]).unwrap();
        assert!(exposure.status.success(), "{}: {exposure:?}", unit.name);
    }
}
