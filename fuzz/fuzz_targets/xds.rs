//! cargo-fuzz's bytes → the target `xds`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("xds", data));
