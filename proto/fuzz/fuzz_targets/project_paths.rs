#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framecrew_blobs::fuzzing::project_paths(data));
