//! The JSON of `update --resources`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orlop_runtime::fuzzing::resources(bytes));
