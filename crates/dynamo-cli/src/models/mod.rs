//! `dynamo-models`: shows what is registered in etcd, says what is wrong with it, and takes it out.
//!
//! `shelf` reads the entries of a scope, and each verb works on what it gives: nothing else here reads
//! an entry, so no verb can show or change one of another namespace.

mod asked;
mod card;
mod change;
mod doctor;
mod findings;
mod item;
mod shelf;
mod show;
mod table;
mod usage;
mod watch;
mod workers;

use std::process::ExitCode;

use crate::failure::Failure;
use crate::program::{self, Main};
use crate::runtime;
use crate::settings::given::Given;
use crate::settings::table::{
    MODELS, MODELS_DOCTOR, MODELS_DRAIN, MODELS_GET, MODELS_LIST, MODELS_RM, MODELS_USAGE,
    MODELS_WATCH,
};
use crate::settings::usage::group;
use asked::Asked;
use shelf::Shelf;

/// Runs `dynamo-models`.
pub fn main() -> ExitCode {
    program::run(&MAIN)
}

/// The program, as it is run.
pub(crate) const MAIN: Main = Main {
    program: &MODELS,
    // The command line demands a verb.
    run: list,
    check: |given| Asked::read(given).map(drop),
    subcommands: &[
        (&MODELS_LIST, list),
        (&MODELS_GET, get),
        (&MODELS_WATCH, watch),
        (&MODELS_DRAIN, drain),
        (&MODELS_RM, rm),
        (&MODELS_DOCTOR, doctor),
        (&MODELS_USAGE, usage),
    ],
};

/// Runs a verb.
fn run<F: Future<Output = Result<ExitCode, Failure>>>(
    given: &Given,
    verb: impl FnOnce(Asked, Shelf) -> F,
) -> Result<ExitCode, Failure> {
    let _logging = program::start_quiet(given)?;
    let asked = Asked::read(given)?;
    runtime::block_on(None, async {
        let shelf = asked.shelf()?;
        verb(asked, shelf).await
    })
}

fn list(given: &Given) -> Result<ExitCode, Failure> {
    run(given, async |asked, shelf| {
        let items = shelf.items().await?;
        program::print(&show::list(&items, asked.format))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn get(given: &Given) -> Result<ExitCode, Failure> {
    let wanted = given.operand().to_owned();
    run(given, async move |asked, shelf| {
        let mut items = shelf.items().await?;
        items.retain(|item| item.has_key(&wanted) || item.model() == Some(&wanted));
        if items.is_empty() {
            return Err(asked.nothing(&wanted));
        }
        program::print(&show::details(&items, asked.format))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn watch(given: &Given) -> Result<ExitCode, Failure> {
    run(given, async |asked, shelf| {
        watch::run(shelf, asked.format).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn drain(given: &Given) -> Result<ExitCode, Failure> {
    let wanted = given.operand().to_owned();
    run(given, async move |asked, shelf| {
        let item = shelf.item(&wanted).await?.ok_or_else(|| asked.nothing(&wanted))?;
        program::print(&change::drain(&shelf, &item, &asked.workers).await?)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn rm(given: &Given) -> Result<ExitCode, Failure> {
    let wanted = given.operand().to_owned();
    run(given, async move |asked, shelf| {
        let item = shelf.item(&wanted).await?.ok_or_else(|| asked.nothing(&wanted))?;
        program::print(&change::remove(&shelf, &item).await?)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn doctor(given: &Given) -> Result<ExitCode, Failure> {
    run(given, async |asked, shelf| {
        let examined = doctor::examine(&asked, &shelf).await?;
        let code = if examined.has_fault() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        program::print(&examined.show(asked.format))?;
        Ok(code)
    })
}

fn usage(given: &Given) -> Result<ExitCode, Failure> {
    let of = given.clone();
    run(given, async move |asked, shelf| {
        let group = group(&of, &asked.scope.scope, &asked.etcd)?;
        let tally = usage::read(&shelf.into_store(), &group).await?;
        program::print(&usage::show(&tally, asked.format))?;
        Ok(ExitCode::SUCCESS)
    })
}
