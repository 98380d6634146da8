//! The engines: how each is installed, and how it is run for chat and for embeddings.

use std::{ffi::OsString, fs, path::PathBuf};

use anyhow::Result;

use super::python::{Environment, directory, script};
use crate::process::capture;

/// What clients give as their API key.
pub(crate) const KEY: &str = "compat-key";

const LLAMA_CPP: Environment =
    Environment { name: "llama-cpp", packages: &["xllamacpp", "gguf", "numpy"] };

/// A real engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Engine {
    /// llama.cpp's server, as a Python module.
    LlamaCpp,
}

/// What an engine process is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Chat,
    Embeddings,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// The name of its model.
    pub(crate) fn model(self, purpose: Purpose) -> String {
        match purpose {
            Purpose::Chat => format!("{}/tiny", self.name()),
            Purpose::Embeddings => format!("{}/tiny-embeddings", self.name()),
        }
    }

    /// Installs it, and makes it a model.
    pub(crate) fn prepare(self, fresh: bool) -> Result<()> {
        LLAMA_CPP.install(fresh)?;
        println!("{}: {}", self.name(), LLAMA_CPP.versions()?);
        capture(LLAMA_CPP.python()?.arg(script("model.py")).arg(model_file()?))?;
        Ok(())
    }

    /// The command that serves a model on a loopback port.
    pub(crate) fn command(self, purpose: Purpose, port: u16) -> Result<Vec<OsString>> {
        let mut command: Vec<OsString> =
            vec![LLAMA_CPP.interpreter()?.into(), script("llamacpp.py").into()];
        command.push(model_file()?.into());
        command.extend([self.model(purpose), port.to_string(), KEY.to_owned()].map(Into::into));
        if purpose == Purpose::Embeddings {
            command.push("--embeddings".into());
        }
        Ok(command)
    }
}

fn model_file() -> Result<PathBuf> {
    let directory = directory()?;
    fs::create_dir_all(&directory)?;
    Ok(directory.join("tiny.gguf"))
}
