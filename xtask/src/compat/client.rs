//! The clients: scripts that run checks and print one line of JSON for each.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    engine::{Engine, KEY, Purpose},
    program::Program,
    python::{Environment, script},
    stage::Stage,
};
use crate::process::capture;

const OPENAI: Environment = Environment::of("openai", &["openai"]);
const FRAMEWORKS: Environment = Environment::of("frameworks", &["langchain-openai", "litellm"]);
const ANTHROPIC: Environment = Environment::of("anthropic", &["anthropic"]);
const AICHAT: Program = Program { name: "aichat" };

/// A real client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    OpenAi,
    LangChain,
    LiteLlm,
    Anthropic,
    AiChat,
}

/// The package that a client's script needs.
enum Kit {
    /// A library, which the script calls.
    Library(Environment),
    /// A program, which the script runs.
    Program(Program),
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) check: String,
    /// The fault, if the check failed.
    pub(crate) failure: Option<String>,
}

impl Client {
    /// The clients beside OpenAI's own that pip installs.
    pub(crate) const LIBRARIES: [Self; 3] = [Self::LangChain, Self::LiteLlm, Self::Anthropic];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::LangChain => "langchain",
            Self::LiteLlm => "litellm",
            Self::Anthropic => "anthropic",
            Self::AiChat => "aichat",
        }
    }

    fn kit(self) -> Kit {
        match self {
            Self::OpenAi => Kit::Library(OPENAI),
            Self::LangChain | Self::LiteLlm => Kit::Library(FRAMEWORKS),
            Self::Anthropic => Kit::Library(ANTHROPIC),
            Self::AiChat => Kit::Program(AICHAT),
        }
    }

    pub(crate) fn install(self, fresh: bool) -> Result<()> {
        // The second of two clients that share an environment finds it installed.
        let fresh = fresh && !matches!(self, Self::LiteLlm);
        let versions = match self.kit() {
            Kit::Library(environment) => {
                environment.install(fresh)?;
                environment.versions()?
            }
            Kit::Program(program) => {
                program.install(fresh)?;
                program.version()?
            }
        };
        println!("{}: {versions}", self.name());
        Ok(())
    }

    /// Runs the client's checks of an engine.
    pub(crate) fn try_engine(self, stage: &Stage, engine: Engine) -> Result<Vec<Outcome>> {
        let mut command = self.command(stage)?;
        command.args(["--model", &engine.model(Purpose::Chat)]);
        command.args(["--embedding-model", &engine.model(Purpose::Embeddings)]);
        outcomes(&mut command)
    }

    /// Runs the client's checks while the engine's worker, the process `worker`, gets SIGTERM.
    pub(crate) fn try_drain(
        self,
        stage: &Stage,
        engine: Engine,
        worker: u32,
    ) -> Result<Vec<Outcome>> {
        let mut command = self.command(stage)?;
        command.args(["--model", &engine.model(Purpose::Chat)]);
        outcomes(command.args(["--worker", &worker.to_string()]))
    }

    /// Runs the client's checks of a model that two engines serve.
    pub(crate) fn try_twins(self, stage: &Stage, engine: Engine) -> Result<Vec<Outcome>> {
        let mut command = self.command(stage)?;
        command.args(["--twins", &engine.model(Purpose::Twins)]);
        outcomes(command.args(["--in-turn", stage.in_turn()]))
    }

    /// Runs the client's checks of errors.
    pub(crate) fn try_errors(self, stage: &Stage) -> Result<Vec<Outcome>> {
        let mut command = self.command(stage)?;
        outcomes(command.args(["--closed", stage.closed()]))
    }

    fn script(self) -> PathBuf {
        script(&format!("client_{}.py", self.name()))
    }

    fn command(self, stage: &Stage) -> Result<Command> {
        let mut command = match self.kit() {
            Kit::Library(environment) => environment.python()?,
            Kit::Program(_) => Command::new("python3"),
        };
        command.arg(self.script());
        if let Kit::Program(program) = self.kit() {
            command.arg("--program").arg(program.path()?);
        }
        command.args(["--base", stage.base(), "--key", KEY]);
        // No file must appear beside the scripts.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        // One client would download a list of prices; all our requests go to loopback.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("NO_PROXY", "127.0.0.1");
        Ok(command)
    }
}

fn outcomes(command: &mut Command) -> Result<Vec<Outcome>> {
    let printed = capture(command)?;
    let lines = printed.lines().filter(|line| line.starts_with('{'));
    let outcomes: Vec<_> = lines.map(outcome).collect::<Result<_>>()?;
    ensure!(!outcomes.is_empty(), "no check ran: {}", crate::process::shown(command));
    for outcome in &outcomes {
        match &outcome.failure {
            None => println!("  ok      {}", outcome.check),
            Some(why) => println!("  FAILED  {}: {why}", outcome.check),
        }
    }
    let notes = printed.lines().filter(|line| line.starts_with("note: "));
    notes.for_each(|note| println!("  {note}"));
    Ok(outcomes)
}

/// `{"check": "chat", "ok": false, "detail": "…"}`
fn outcome(line: &str) -> Result<Outcome> {
    let value: Value = serde_json::from_str(line)?;
    let check = value["check"].as_str().context("a check without a name")?.to_owned();
    let detail = || value["detail"].as_str().unwrap_or("for no reason that it told").to_owned();
    Ok(Outcome { check, failure: (value["ok"] != true).then(detail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_its_script() {
        for client in [Client::OpenAi, Client::AiChat].iter().chain(&Client::LIBRARIES) {
            assert!(client.script().exists(), "{}", client.script().display());
        }
    }

    #[test]
    fn a_check_passes_only_if_it_says_so() {
        let failure = |line| outcome(line).unwrap().failure;
        assert_eq!(failure(r#"{"check":"chat","ok":true}"#), None);
        assert_eq!(failure(r#"{"check":"chat","ok":false,"detail":"x"}"#).as_deref(), Some("x"));
        assert!(failure(r#"{"check":"chat"}"#).is_some());
        assert!(outcome("{}").is_err());
    }
}
