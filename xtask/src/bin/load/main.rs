//! The far ends of `cargo xtask bench proxy`: a mock OpenAI-compatible server and a load generator.
//! Both are lean, so that the bench measures the proxy between them.
#![expect(clippy::print_stdout, reason = "the result is its output")]

mod client;
mod kind;
mod message;
mod server;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;

#[derive(Debug, Parser)]
enum Command {
    /// Answer requests until killed
    Serve { address: SocketAddr },
    /// Send requests for a while and print the result as one JSON object
    Run(client::Load),
}

fn main() -> Result<()> {
    let command = Command::parse();
    // Each has one thread, since the proxy shares the cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Serve { address } => runtime.block_on(server::serve(address)),
        Command::Run(load) => {
            println!("{}", runtime.block_on(client::run(load))?);
            Ok(())
        }
    }
}
