//! Becomes the `protoc` that crates.io carries, with its arguments unchanged.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let status = protoc_bin_vendored::protoc_bin_path()
        .map_err(|error| error.to_string())
        .and_then(|protoc| {
            Command::new(protoc)
                .args(std::env::args_os().skip(1))
                .status()
                .map_err(|error| error.to_string())
        });
    match status {
        Ok(status) => {
            ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        #[expect(clippy::print_stderr, reason = "a compiler driver reports on standard error")]
        Err(error) => {
            eprintln!("xtask-protoc: cannot run the vendored protoc: {error}");
            ExitCode::FAILURE
        }
    }
}
