//! Logs: which, and in which form. They go to stderr.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::settings::table;
use crate::settings::value::YesNo;

/// Starts logging, as the variables say.
///
/// # Errors
///
/// When one of them is invalid.
pub(crate) fn start(environment: &Environment) -> Result<(), Failure> {
    let filter = filter(environment)?;
    let YesNo(json) = table::LOGGING_JSONL.resolve(None, environment)?;
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

fn filter(environment: &Environment) -> Result<EnvFilter, Failure> {
    let set = [table::LOG, table::RUST_LOG]
        .into_iter()
        .find_map(|setting| Some((setting.name(), environment.get(setting.variable?)?)));
    let default = table::LOG.default.unwrap_or_default();
    let (variable, text) = set.unwrap_or_else(|| (table::LOG.name(), default));
    EnvFilter::builder().parse(text).map_err(|error| {
        Failure::usage(format!(
            "{variable}={text:?}: {error}; expected a filter such as debug or \
             info,dynamo_http=debug"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_variable_wins_over_the_usual_one_and_both_may_be_blank() {
        for (environment, expected) in [
            (Environment::from([("DYN_LOG", "warn"), ("RUST_LOG", "trace")]), "warn"),
            (Environment::from([("DYN_LOG", " "), ("RUST_LOG", "trace")]), "trace"),
            (Environment::from([("DYN_LOG", ""), ("RUST_LOG", "")]), "info"),
            (Environment::default(), "info"),
        ] {
            assert_eq!(filter(&environment).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn an_invalid_filter_is_named_with_its_variable() {
        let failure = filter(&Environment::from([("DYN_LOG", "dynamo_http=loud")])).unwrap_err();
        let message = failure.to_string();
        assert!(message.starts_with("DYN_LOG=\"dynamo_http=loud\": "), "{message}");
        assert!(matches!(failure, Failure::Usage(_)));
    }
}
