//! Runs the target `cf_connect` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway_fuzz::check("cf_connect", data));
