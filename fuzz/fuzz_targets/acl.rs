//! libFuzzer's door to `fuzz::acl`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::acl(bytes));
