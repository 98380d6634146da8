//! `dynamo-worker`; what it does is in the library, module `worker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_cli::worker::main()
}
