#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framecrew_orchestrator::fuzzing::orchestrator_requests(
    data
));
