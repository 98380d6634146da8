//! A Chromium that is driven by the DevTools protocol over two pipes.
//!
//! <https://chromedevtools.github.io/devtools-protocol/>; messages are JSON that a zero byte ends.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{apt::Program, process, process::Group, signals::check_interrupt};

/// The deadline of one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
#[derive(Debug)]
pub(super) struct Browser {
    _group: Group,
    input: File,
    messages: Receiver<Value>,
    last: u64,
    session: String,
    /// What the page has told since this was last taken.
    events: Vec<Value>,
}

impl Browser {
    /// Starts a browser that keeps its files in this directory.
    pub(super) fn start(program: &Program, place: &Path) -> Result<Self> {
        let profile = tempfile::tempdir_in(place)?.keep();
        let pipes = ["in", "out"].map(|name| profile.join(name));
        process::capture(Command::new("mkfifo").args(&pipes))?;
        // The browser reads from descriptor 3 and writes to 4.
        let script = r#"exec "$@" 3<"$IN" 4>"$OUT""#;
        let mut command = program.command();
        let path = command.get_program().to_owned();
        let libraries = command.get_envs().find_map(|(name, value)| {
            (name == "LD_LIBRARY_PATH").then(|| value.map(ToOwned::to_owned)).flatten()
        });
        command = Command::new("sh");
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.env("IN", &pipes[0]).env("OUT", &pipes[1]).args(["-c", script, "sh"]).arg(path);
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-dev-shm-usage", "--disable-background-networking"]);
        command.args(["--disable-component-update", "--disable-sync", "--remote-debugging-pipe"]);
        command.arg(format!("--user-data-dir={}", profile.join("profile").display()));
        command.arg("about:blank");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let group = Group::spawn(&mut command)?;
        // A pipe that is opened for both ways does not wait for the other end.
        let open = |path| File::options().read(true).write(true).open(path);
        let (input, output) = (open(&pipes[0])?, open(&pipes[1])?);
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            _group: group,
            input,
            messages,
            last: 0,
            session: String::new(),
            events: Vec::new(),
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach)?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Calls a method of the protocol.
    pub(super) fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.input.write_all(message.to_string().as_bytes())?;
        self.input.write_all(&[0])?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            check_interrupt()?;
            match self.messages.recv_timeout(Duration::from_millis(100)) {
                Ok(answer) if answer["id"] == self.last => {
                    if let Some(error) = answer.get("error") {
                        bail!("{method}: {error}");
                    }
                    return Ok(answer["result"].clone());
                }
                Ok(event) => self.events.push(event),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => bail!("Chromium does not answer {method}"),
            }
        }
    }

    /// The value of an expression, or of the promise that it is.
    pub(super) fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", &parameters)?;
        ensure!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        Ok(result["result"]["value"].take())
    }

    /// Presses and releases a key.
    pub(super) fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            _ => bail!("the key {key} has no code here"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && key == "Enter" {
                event["text"] = "\r".into();
            }
            self.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Types a text where the focus is.
    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", &json!({"text": text})).map(drop)
    }

    /// What the page has told since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Value> {
        self.events.extend(self.messages.try_iter());
        std::mem::take(&mut self.events)
    }
}
