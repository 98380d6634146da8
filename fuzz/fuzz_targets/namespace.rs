//! Feeds [`dynamo_fuzz::namespace`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::namespace(bytes));
