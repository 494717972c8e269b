//! Searches for bytes that break what `svclb_fuzz::manifests` promises.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| svclb_fuzz::manifests(bytes));
