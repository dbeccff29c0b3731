//! libFuzzer's door to `fuzz::framing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::framing(bytes));
