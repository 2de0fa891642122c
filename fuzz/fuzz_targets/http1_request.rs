//! cargo-fuzz's bytes → the target `http1_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("http1_request", data));
