//! cargo-fuzz's bytes → the target `path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("path", data));
