#!/bin/sh
# The protoc of this build: the machine's own, else the one that crates.io carries.
# A target directory of its own, since the outer cargo holds the lock of the usual one.
set -eu
if own=$(command -v protoc); then
    exec "$own" "$@"
fi
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
# Not `cd`: protoc is called with paths relative to the crate that is built.
exec cargo run --quiet --locked --manifest-path "$root/Cargo.toml" --package xtask-protoc \
    --target-dir "$root/target/protoc" -- "$@"
