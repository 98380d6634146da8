//! The units of systemd in the guide: settings that the programs take, and no more rights than needed.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::path::Path;
use std::process::Command;

use dynamo_tests::Program;

/// A unit of the guide.
struct Unit {
    name: String,
    text: String,
}

impl Unit {
    /// All blocks of the guide that say which unit they are.
    fn all() -> Vec<Self> {
        let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        let blocks = guide.split("```ini\n").skip(1);
        let units = blocks.filter_map(|block| {
            let text = block.split("```").next()?;
            let name = text.lines().next()?.strip_prefix("# /etc/systemd/system/")?;
            Some(Self { name: name.to_owned(), text: text.replace("\\\n", "") })
        });
        units.collect()
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
fn the_units_of_the_guide_name_flags_and_variables_that_the_programs_take() {
    let units = Unit::all();
    assert_eq!(units.len(), 2);
    for unit in &units {
        let (program, arguments) = unit.command();
        let help = Command::new(Program::path(&program)).args(arguments).arg("--help").output();
        let help = help.unwrap();
        assert!(help.status.success(), "{}: {help:?}", unit.name);
        let help = String::from_utf8(help.stdout).unwrap();
        for variable in unit.values("Environment") {
            let name = variable.split('=').next().unwrap();
            assert!(help.contains(name), "{}: {name}", unit.name);
        }
    }
}

#[test]
fn the_units_of_the_guide_run_without_the_rights_of_root_and_end_in_order() {
    for unit in &Unit::all() {
        let unprivileged =
            unit.has("DynamicUser=yes") || unit.values("User").any(|one| one != "root");
        assert!(unprivileged, "{}", unit.name);
        for line in ["LimitNOFILE=65536", "Restart=on-failure"] {
            assert!(unit.has(line), "{}: {line}", unit.name);
        }
    }
    let [frontend, worker] = &Unit::all()[..] else { panic!("there are two units") };
    for line in ["ExecReload=/bin/kill -HUP $MAINPID", "RestartPreventExitStatus=2"] {
        assert!(frontend.has(line), "{line}");
    }
    let state = frontend.values("StateDirectory").next().unwrap();
    assert!(frontend.has(&format!("Environment=DYN_STATE_FILE=%S/{state}/team-a.state")));
    assert!(worker.has("KillMode=mixed"), "the worker ends its engine itself");
}

/// systemd's own opinion, where it is there.
#[test]
fn systemd_finds_nothing_wrong_with_the_units_of_the_guide() {
    let folder = tempfile::tempdir().unwrap();
    for unit in Unit::all() {
        let (program, _) = unit.command();
        let installed = format!("/usr/local/bin/{program}");
        let built = Program::path(&program).display().to_string();
        let path = folder.path().join(&unit.name);
        std::fs::write(&path, unit.text.replace(&installed, &built)).unwrap();
        let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
            println!("there is no systemd-analyze on this machine");
            return;
        };
        let told = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && told.is_empty(), "{}: {told}", unit.name);
    }
}
