//! `dynamo-worker`; the library's module `worker` has the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_cli::worker::main()
}
