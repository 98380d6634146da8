//! `dynamo-worker-config`: prints the identity under which a worker registers.

use std::process::ExitCode;

use dynamo_namespace::EndpointId;
use serde_json::json;

use crate::failure::Failure;
use crate::program::{self, Main};
use crate::settings::given::Given;
use crate::settings::identity;
use crate::settings::table::{Output, WORKER_CONFIG};
use crate::settings::value::Format;

/// What the names in `--format env` begin with. They are not those that are read, since a suffix
/// that is part of the result would else be appended once more.
const ENV_FORMAT_PREFIX: &str = "DYN_WORKER_";

/// Runs `dynamo-worker-config`.
pub fn main() -> ExitCode {
    program::run(&MAIN)
}

/// The program, as it is run.
pub(crate) const MAIN: Main = Main {
    program: &WORKER_CONFIG,
    run,
    check: |given| identity::read(given).map(drop),
    subcommands: &[],
};

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
            // A name has no character that is special to a shell.
            Self::Env => [
                ("NAMESPACE", id.namespace().as_str()),
                ("COMPONENT", id.component()),
                ("ENDPOINT", id.name()),
                ("ENDPOINT_ID", &id.to_string()),
            ]
            .map(|(name, value)| format!("{}{name}={value}\n", ENV_FORMAT_PREFIX))
            .concat(),
        }
    }
}

fn run(given: &Given) -> Result<ExitCode, Failure> {
    let _logging = program::start(given)?;
    let format = Output::read(given)?.format.take();
    let id = identity::read(given)?;
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
