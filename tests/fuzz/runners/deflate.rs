//! Runs the target `deflate` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway_fuzz::check("deflate", data));
