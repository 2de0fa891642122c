//! cargo-fuzz's bytes → the target `downstream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("downstream", data));
