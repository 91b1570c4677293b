//! libFuzzer target; what must hold is in tests/support/properties.rs, which tests/fuzz_corpus.rs checks as well.

#![no_main]

#[path = "../../tests/support/properties.rs"]
#[allow(dead_code)]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::postgres(bytes));
