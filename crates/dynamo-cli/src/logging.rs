//! Logs: which, and in which form. They go to stderr.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;
use crate::settings::given::{Given, Value};
use crate::settings::table::Logs;
use crate::settings::value::YesNo;

/// Starts logging, as the variables say.
///
/// # Errors
///
/// When one of them is invalid.
pub(crate) fn start(given: &Given) -> Result<(), Failure> {
    let logs = Logs::read(given)?;
    let (filter, YesNo(json)) = (filter(&logs.log)?, *logs.logging_jsonl);
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).finish().try_init()
    } else if std::io::stderr().is_terminal() {
        // The builder knows the usual variable against colours.
        builder.finish().try_init()
    } else {
        builder.with_ansi(false).finish().try_init()
    };
    started.context("cannot start logging").map_err(Failure::Running)
}

fn filter(log: &Value<String>) -> Result<EnvFilter, Failure> {
    EnvFilter::builder().parse(log.as_str()).map_err(|error| {
        Failure::usage(format!(
            "{}={:?}: {error}; expected a filter such as debug or info,dynamo_http=debug",
            log.source(),
            log.as_str()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::FRONTEND;

    fn read<const N: usize>(variables: [(&str, &str); N]) -> Result<String, String> {
        let logs = Logs::read(&given(&FRONTEND, &[""; 0], variables).unwrap()).unwrap();
        filter(&logs.log).map(|filter| filter.to_string()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn our_own_variable_wins_over_the_usual_one_and_both_may_be_blank() {
        for (ours, usual, expected) in
            [("warn", "trace", "warn"), (" ", "trace", "trace"), ("", "", "info")]
        {
            assert_eq!(read([("DYN_LOG", ours), ("RUST_LOG", usual)]).unwrap(), expected);
        }
    }

    #[test]
    fn an_invalid_filter_is_named_with_its_variable() {
        let message = read([("DYN_LOG", "dynamo_http=loud")]).unwrap_err();
        assert!(message.starts_with("DYN_LOG=\"dynamo_http=loud\": "), "{message}");
    }
}
