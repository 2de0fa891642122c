//! cargo-fuzz's bytes → the target `chunked_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("chunked_body", data));
