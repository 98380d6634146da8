//! Feeds [`dynamo_fuzz::state_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::state_file(bytes));
