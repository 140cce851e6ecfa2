#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framecrew_node::fuzzing::node_request(data));
