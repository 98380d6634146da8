//! `dynamo-models`; the library's module `models` has the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_cli::models::main()
}
