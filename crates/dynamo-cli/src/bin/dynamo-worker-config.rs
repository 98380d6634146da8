//! `dynamo-worker-config`; the library's module `worker_config` has the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_cli::worker_config::main()
}
