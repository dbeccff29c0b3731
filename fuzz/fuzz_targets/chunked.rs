//! libFuzzer's door to `fuzz::chunked`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::chunked(bytes));
