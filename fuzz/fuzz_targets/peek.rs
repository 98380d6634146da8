//! Feeds [`dynamo_fuzz::peek`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::peek(bytes));
