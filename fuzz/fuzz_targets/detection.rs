//! cargo-fuzz's bytes → the target `detection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("detection", data));
