//! `cargo xtask operators`: what operators use, on a live frontend under load: the status page in a real
//! Chromium, and the dashboard and the alerts in a real Prometheus.

mod browser;
mod devtools;
mod prometheus;
mod stage;

use anyhow::Result;

use self::stage::Stage;
use crate::{etcd, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) etcd: etcd::Source,
    /// Leave the status page out, with a note, where no Chromium can be had
    #[arg(long)]
    pub(crate) browser_if_there: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::run(&mut workspace::cargo(["build", "-p", "dynamo-cli", "--bins"]))?;
    let etcd = etcd::provision(&args.etcd)?;
    println!("operators: etcd at {} ({})", etcd.endpoints, etcd.origin);
    let mut stage = Stage::start(&etcd.endpoints)?;
    let expressions = prometheus::check(&mut stage)?;
    println!("operators: {expressions} expressions of the dashboard and the alerts have values");
    match browser::find() {
        Ok(program) => browser::check(&mut stage, &program)?,
        Err(error) if args.browser_if_there => {
            println!("note: the status page is not checked: {error:#}");
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    println!("operators: the status page holds");
    Ok(())
}
