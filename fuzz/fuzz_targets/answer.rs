//! Feeds [`dynamo_fuzz::answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::answer(bytes));
