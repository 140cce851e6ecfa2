//! Generates the Rust side of `proto/` with protox, so that no protoc needs to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "framecrew/v1/job.proto",
    "framecrew/v1/blob_store.proto",
    "framecrew/v1/render_node.proto",
    "framecrew/v1/orchestrator.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/framecrew");
    let descriptors = protox::compile(PROTOS, ["proto"])?;

    // Reflection serves the descriptor set; pbjson derives the canonical JSON form from it.
    let encoded = descriptors.encode_to_vec();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("framecrew.v1.bin"), &encoded)?;

    // `Bytes` makes a chunk of a blob a slice of the received frame instead of a copy.
    tonic_prost_build::configure().bytes(".framecrew.v1").compile_fds(descriptors)?;
    pbjson_build::Builder::new().register_descriptors(&encoded)?.build(&[".framecrew.v1"])?;
    Ok(())
}
