//! Feeds [`dynamo_fuzz::key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::key(bytes));
