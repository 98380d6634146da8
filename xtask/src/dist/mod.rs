//! `cargo xtask dist`: what people install, built into `target/dist`.
//!
//! `--check` installs and runs each of them as a user would, on this machine and without a registry.

mod archive;
mod compose;
mod crates;
mod debian;
mod folder;
mod image;
mod kubernetes;
mod licences;
mod outcome;
mod programs;
mod trial;
mod wheel;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use self::{folder::Dist, outcome::Outcome};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install and run each of them as a user would
    #[arg(long)]
    check: bool,
    /// Only these; repeatable
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Artefact>,
}

/// What people install. The order is the one in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Artefact {
    /// Static binaries with man pages and completions, as tar.gz
    Archive,
    /// A container image
    Image,
    /// A compose file, which uses the image
    Compose,
    /// Plain YAML for Kubernetes
    Kubernetes,
    /// A Debian package
    Debian,
    /// A Python wheel
    Wheel,
    /// The crates, as they are published
    Crates,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let dist = Dist::new()?;
    programs::build(&dist)?;
    let mut lines = vec![line("programs", started.elapsed(), "built")];
    for artefact in Artefact::value_variants() {
        if !args.only.is_empty() && !args.only.contains(artefact) {
            continue;
        }
        let name = artefact.to_possible_value().context("it is not hidden")?;
        let name = name.get_name();
        println!("\n== {name}");
        lines.push(step(name, "", || artefact.build(&dist))?);
        if args.check {
            lines.push(step(name, ", check", || artefact.check(&dist))?);
        }
    }
    archive::sums(&dist)?;
    println!("\n== {}\n{}", dist.folder.display(), lines.join("\n"));
    Ok(())
}

fn step(name: &str, what: &str, step: impl FnOnce() -> Result<Outcome>) -> Result<String> {
    let started = Instant::now();
    let outcome = step().with_context(|| format!("dist: {name}{what}"))?;
    let told = match outcome {
        Outcome::Done(told) => told,
        Outcome::LeftOut(reason) => format!("LEFT OUT: {reason}"),
    };
    println!("  {told}");
    Ok(line(&format!("{name}{what}"), started.elapsed(), &told))
}

fn line(name: &str, took: Duration, told: &str) -> String {
    format!("{:7.1} s  {name}: {told}", took.as_secs_f64())
}

impl Artefact {
    fn build(self, dist: &Dist) -> Result<Outcome> {
        match self {
            Self::Archive => archive::build(dist),
            Self::Image => image::build(dist),
            Self::Compose | Self::Kubernetes => Ok(Outcome::Done("the files in deploy".into())),
            Self::Debian => debian::build(dist),
            Self::Wheel => wheel::build(dist),
            Self::Crates => crates::build(),
        }
    }

    fn check(self, dist: &Dist) -> Result<Outcome> {
        match self {
            Self::Archive => archive::check(dist),
            Self::Image => image::check(dist),
            Self::Compose => compose::check(dist),
            Self::Kubernetes => kubernetes::check(),
            Self::Debian => debian::check(dist),
            Self::Wheel => wheel::check(dist),
            Self::Crates => crates::check(dist),
        }
    }
}
