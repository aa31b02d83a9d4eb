//! Runs the target `emulation` with libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway_fuzz::check("emulation", data));
