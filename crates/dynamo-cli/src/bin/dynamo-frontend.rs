//! `dynamo-frontend`; what it does is in the library, module `frontend`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_cli::frontend::main()
}
