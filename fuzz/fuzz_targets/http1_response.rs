//! cargo-fuzz's bytes → the target `http1_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("http1_response", data));
