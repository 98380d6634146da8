//! Feeds [`dynamo_fuzz::catalog`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::catalog(bytes));
