//! config.json, up to what the kernel is asked for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orlop_runtime::fuzzing::config(bytes));
