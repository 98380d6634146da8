//! `dynamo-worker-config`: prints the identity under which a worker registers.

use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use dynamo_namespace::EndpointId;
use serde_json::json;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::settings::identity::{self, IdentityFlags};
use crate::settings::table;
use crate::settings::value::Expected;
use crate::{logging, program};

/// Runs `dynamo-worker-config`.
pub fn main() -> ExitCode {
    program::run(&table::WORKER_CONFIG, run)
}

#[derive(Debug, Parser)]
pub(crate) struct Flags {
    #[command(flatten)]
    identity: IdentityFlags,
    #[arg(long)]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Json,
    Env,
}

impl FromStr for Format {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "json" => Ok(Self::Json),
            "env" => Ok(Self::Env),
            _ => Err(Expected("json or env".into())),
        }
    }
}

impl Format {
    fn print(self, id: &EndpointId) -> String {
        match self {
            Self::Json => {
                let identity = json!({
                    "namespace": id.namespace().as_str(),
                    "component": id.component(),
                    "endpoint": id.name(),
                    "endpoint_id": id.to_string(),
                });
                format!("{identity}\n")
            }
            // No name has a character that a shell would take for its own.
            Self::Env => [
                ("NAMESPACE", id.namespace().as_str()),
                ("COMPONENT", id.component()),
                ("ENDPOINT", id.name()),
                ("ENDPOINT_ID", &id.to_string()),
            ]
            .map(|(name, value)| format!("{}{name}={value}\n", table::ENV_FORMAT_PREFIX))
            .concat(),
        }
    }
}

fn run(flags: Flags, environment: &Environment) -> Result<ExitCode, Failure> {
    logging::start(environment)?;
    let format = table::FORMAT.resolve(flags.format, environment)?;
    let id = flags.identity.resolve(environment)?;
    identity::log(&id);
    program::print(&format.print(&id))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_printed_as_one_object_or_as_lines_for_a_shell() {
        let id = "team-a.prefill.generate".parse().unwrap();
        assert_eq!(
            Format::Json.print(&id),
            "{\"component\":\"prefill\",\"endpoint\":\"generate\",\
             \"endpoint_id\":\"team-a.prefill.generate\",\"namespace\":\"team-a\"}\n"
        );
        assert_eq!(
            Format::Env.print(&id),
            "DYN_WORKER_NAMESPACE=team-a\nDYN_WORKER_COMPONENT=prefill\n\
             DYN_WORKER_ENDPOINT=generate\nDYN_WORKER_ENDPOINT_ID=team-a.prefill.generate\n"
        );
    }
}
