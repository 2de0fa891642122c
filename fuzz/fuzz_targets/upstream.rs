//! cargo-fuzz's bytes → the target `upstream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("upstream", data));
