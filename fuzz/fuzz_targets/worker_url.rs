//! Feeds [`dynamo_fuzz::worker_url`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::worker_url(bytes));
