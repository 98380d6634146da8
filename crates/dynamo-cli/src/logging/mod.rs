//! Logs: which lines, in which form, and how they get to stderr.

mod filter;
mod limits;
mod lines;

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use tracing::warn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::failure::Failure;
use crate::settings::given::{Given, Value};
use crate::settings::table::Logs;
use crate::settings::value::YesNo;
use filter::Asked;
use limits::Limits;
use lines::Lines;

/// The logs of a program. Dropped, they are written to their end, as far as stderr takes them.
#[must_use]
#[derive(Debug)]
pub(crate) struct Logging {
    lines: Lines,
    limits: Limits,
    filter: Filter,
}

/// Which lines are written. It can be changed while the program runs.
#[derive(Clone, Debug)]
pub(crate) struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Takes up what the settings ask for now.
    ///
    /// # Errors
    ///
    /// When a part of the filter is invalid; then it stays as it was.
    pub(crate) fn change(&self, given: &Given) -> Result<(), Failure> {
        let Asked { filter, complaints } = filter::read(&Logs::read(given)?.log)?;
        self.0.reload(filter).map_err(Failure::usage)?;
        complain(complaints);
        Ok(())
    }
}

fn complain(complaints: Vec<String>) {
    for complaint in complaints {
        warn!(%complaint, "a filter for the log is not understood in full");
    }
}

/// Starts logging, as the variables say.
///
/// # Errors
///
/// When one of them is invalid, or when there can be no thread.
pub(crate) fn start(log: &Value<String>, YesNo(json): YesNo) -> Result<Logging, Failure> {
    let Asked { filter, complaints } = filter::read(log)?;
    let limits = Limits::default();
    let lines = {
        let limits = limits.clone();
        Lines::start(std::io::stderr(), move || limits.report(false))
    };
    let lines = lines.context("cannot start logging").map_err(Failure::Running)?;
    // A line that cannot be written is lost, and nothing else is.
    let layer = fmt::layer().log_internal_errors(false).with_writer(lines.clone());
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter).with(limits.clone());
    let started = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else if std::io::stderr().is_terminal() {
        // The layer knows the usual variable against colours.
        registry.with(layer).try_init()
    } else {
        registry.with(layer.with_ansi(false)).try_init()
    };
    started.context("cannot start logging").map_err(Failure::Running)?;
    complain(complaints);
    Ok(Logging { lines, limits, filter: Filter(handle) })
}

impl Logging {
    /// Which lines are written.
    pub(crate) fn filter(&self) -> Filter {
        self.filter.clone()
    }
}

/// Writes the last line of a program to stderr, where that takes it in time.
pub(crate) fn last_line(line: &str) {
    if let Ok(mut lines) = Lines::start(std::io::stderr(), || {}) {
        let _ = lines.write_all(format!("{line}\n").as_bytes());
        lines.wait();
    }
}

/// How the log does, in Prometheus' text format. A clone is about the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogMetrics {
    lines: Lines,
    limits: Limits,
}

impl Logging {
    /// The metrics of this log.
    pub(crate) fn metrics(&self) -> LogMetrics {
        LogMetrics { lines: self.lines.clone(), limits: self.limits.clone() }
    }
}

impl LogMetrics {
    /// The metrics as they are now.
    pub(crate) fn text(&self) -> String {
        let (waiting, most, dropped) = self.lines.counts();
        let mut text = String::new();
        for (name, kind, help, value) in [
            ("log_queue_lines", "gauge", "Log lines that wait for stderr", waiting as u64),
            ("log_queue_limit_lines", "gauge", "Most log lines that may wait", most as u64),
            (
                "log_lines_dropped_total",
                "counter",
                "Log lines that were lost, since stderr took them too slowly",
                dropped,
            ),
            (
                "log_lines_left_out_total",
                "counter",
                "Log lines that were left out, since there were too many of their kind",
                self.limits.left_out(),
            ),
        ] {
            let name = format!("dynamo_frontend_{name}");
            text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
        text
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.limits.report(true);
        self.lines.report();
        self.lines.wait();
    }
}
