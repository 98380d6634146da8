//! Feeds [`dynamo_fuzz::entry`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::entry(bytes));
