//! The Framecrew protocol as Rust: messages (with canonical proto3 JSON through serde), clients and
//! servers of `framecrew.v1`, generated at build time from the files beside this one.

/// Version 1 of the protocol.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("framecrew.v1");
    include!(concat!(env!("OUT_DIR"), "/framecrew.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet` of [`v1`], for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/framecrew.v1.bin"));
