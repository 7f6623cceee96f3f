//! The JSON of `exec --process`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orlop_runtime::fuzzing::process(bytes));
