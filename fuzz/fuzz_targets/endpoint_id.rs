//! Feeds [`dynamo_fuzz::endpoint_id`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::endpoint_id(bytes));
