#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framecrew_blend::fuzzing::blend_survey(data));
