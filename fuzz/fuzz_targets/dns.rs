//! cargo-fuzz's bytes → the target `dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("dns", data));
