//! The Framecrew protocol as Rust: messages (with canonical proto3 JSON through serde), clients and
//! servers of `framecrew.v1`, generated at build time from the files beside this one.

mod frames;
pub mod limits;

/// Version 1 of the protocol.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("framecrew.v1");
    include!(concat!(env!("OUT_DIR"), "/framecrew.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet` of [`v1`], for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/framecrew.v1.bin"));

/// A batch's number as logs write it: the orchestrator's life that made it, a dot, and its number within that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchName(pub u64);

impl std::fmt::Display for BatchName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}
