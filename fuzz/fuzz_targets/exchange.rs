//! Feeds [`dynamo_fuzz::exchange`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::exchange(bytes));
