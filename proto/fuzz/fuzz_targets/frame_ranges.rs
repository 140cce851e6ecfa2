#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framecrew::fuzzing::frame_ranges(data));
