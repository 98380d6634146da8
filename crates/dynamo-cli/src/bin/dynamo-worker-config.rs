//! `dynamo-worker-config`; what it does is in the library, module `worker_config`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_cli::worker_config::main()
}
