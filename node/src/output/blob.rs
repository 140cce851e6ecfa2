//! Bytes that are to be stored, in memory or in a file.

use std::path::PathBuf;

use bytes::Bytes;
use framecrew_blobs::{Digest, Source};

/// Bytes with their name, to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) content: Content,
}

/// Where the bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    File(PathBuf),
    Memory(Bytes),
}

impl Blob {
    /// The bytes, to be sent.
    pub(crate) fn source(&self) -> Source {
        let digest = self.digest;
        match &self.content {
            Content::Memory(bytes) => Source::Bytes { bytes: bytes.clone(), digest },
            Content::File(path) => {
                Source::File { path: path.clone(), digest, size_bytes: self.size_bytes }
            }
        }
    }
}
