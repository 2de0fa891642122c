//! cargo-fuzz's bytes → the target `proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run("proxy_protocol", data));
