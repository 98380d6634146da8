//! An etcd for a run: an external one, a container, or a child process.

mod binary;
mod compose;
mod image;
mod local;
mod ready;

use anyhow::{Context, Result};
use clap::ValueEnum;

pub(crate) use self::{
    binary::{BINARY_VAR, provision as binary},
    compose::{compose_command, engine_runs},
    image::{build as build_image, build_if_absent as build_image_if_absent, of as image_of},
};
use self::{compose::Compose, local::Local};

/// Names the endpoints of the etcd that tests use, comma-separated.
pub(crate) const ENDPOINTS_VAR: &str = "DYN_TEST_ETCD_ENDPOINTS";

/// Where etcd comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// external where endpoints are given, else compose where an engine and the image are there, else local
    Auto,
    /// A container, by tests/compose.yaml
    Compose,
    /// A process of our own: $ETCD_BIN, from PATH, or fetched by apt-get into target/tools
    Local,
    /// One that already runs
    External,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Source {
    /// Where etcd comes from
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    etcd: Mode,
    /// Fetch this version and use it, also where tests start an etcd of their own; implies local
    #[arg(long, value_enum, value_name = "VERSION")]
    pub(crate) etcd_version: Option<binary::Version>,
    /// Endpoints of the external etcd, comma-separated
    #[arg(long, env = ENDPOINTS_VAR, value_name = "URLS")]
    etcd_endpoints: Option<String>,
}

impl Source {
    pub(crate) fn of(mode: Mode) -> Self {
        Self { etcd: mode, etcd_version: None, etcd_endpoints: None }
    }

    /// Whether the etcd is a container.
    pub(crate) fn is_compose(&self) -> bool {
        self.mode() == Mode::Compose
    }

    /// The mode, with `auto` resolved.
    fn mode(&self) -> Mode {
        match self.etcd {
            Mode::Auto if self.etcd_version.is_some() => Mode::Local,
            Mode::Auto if self.endpoints().is_some() => Mode::External,
            Mode::Auto if compose::ready_to_run() => Mode::Compose,
            Mode::Auto => Mode::Local,
            mode => mode,
        }
    }

    fn endpoints(&self) -> Option<&str> {
        self.etcd_endpoints.as_deref().map(str::trim).filter(|endpoints| !endpoints.is_empty())
    }
}

/// A running etcd. The drop ends an etcd that this process has started.
#[derive(Debug)]
pub(crate) struct Etcd {
    pub(crate) endpoints: String,
    /// A description for people.
    pub(crate) origin: String,
    _guard: Guard,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for their Drop")]
enum Guard {
    External,
    Compose(Compose),
    Local(Local),
}

/// Finds or starts an etcd, and waits until it answers.
pub(crate) fn provision(args: &Source) -> Result<Etcd> {
    match args.mode() {
        Mode::External => {
            let endpoints = args.endpoints().with_context(|| {
                format!("--etcd external needs --etcd-endpoints or {ENDPOINTS_VAR}")
            })?;
            // The HTTP client has no TLS. The first test shows whether an etcd behind TLS answers.
            if let Some(plain) = endpoints.split(',').find(|url| url.starts_with("http://")) {
                ready::wait(plain, || Ok(()))?;
            }
            Ok(Etcd {
                endpoints: endpoints.into(),
                origin: "external".into(),
                _guard: Guard::External,
            })
        }
        Mode::Compose => {
            let compose = Compose::up()?;
            Ok(Etcd {
                endpoints: compose.endpoint()?,
                origin: format!("the compose project {}", compose.project()),
                _guard: Guard::Compose(compose),
            })
        }
        Mode::Local | Mode::Auto => {
            let binary = binary(args.etcd_version)?;
            let local = Local::start(&binary)?;
            Ok(Etcd {
                endpoints: local.endpoint().into(),
                origin: binary.display().to_string(),
                _guard: Guard::Local(local),
            })
        }
    }
}
