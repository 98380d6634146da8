//! `dynamo-frontend`; what it does is in the library, module `frontend`.

use std::process::ExitCode;

/// A request allocates some thirty times, from whichever thread it is on: with glibc's allocator
/// that is a seventh of what it costs in user space, with this one half of that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dynamo_cli::frontend::main()
}
