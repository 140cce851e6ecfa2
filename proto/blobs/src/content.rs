use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use fastcdc::v2020::StreamCDC;

use crate::Digest;

/// Files above this size in bytes are cut into chunks: a chunk more or less of it costs more in a file's list
/// than sending a small file again.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Sizes of chunks in bytes. The content decides where they end, so that bytes put into a file change the chunks
/// around them and no others. Large enough that the list of a file of 100 GB stays below 65,536.
const CHUNK_BYTES_MIN: usize = 1 << 20;
const CHUNK_BYTES_AVERAGE: usize = 4 << 20;
const CHUNK_BYTES_MAX: usize = 8 << 20;

/// The content of a file: what it is named by, and the blobs that it travels in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// BLAKE3 hash of all of it.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The blobs whose bytes, one after the other, are the content; none: it is one blob, named by `digest`.
    pub chunks: Vec<Chunk>,
}

/// A piece of a file that travels as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// BLAKE3 hash of the piece.
    pub digest: Digest,
    /// Its size in bytes, 1 or more.
    pub size_bytes: u64,
}

impl FileDigest {
    /// Reads a file once: hashes it, counts its bytes, and cuts it where it is large. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size_bytes = file.metadata()?.len();
        // What is appended meanwhile would never end; whoever sends the file sees that it grew.
        let mut file = file.take(size_bytes);
        let mut hasher = blake3::Hasher::new();
        let mut chunks = Vec::new();
        if size_bytes > WHOLE_BYTES_MAX {
            let pieces =
                StreamCDC::new(file, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
            for piece in pieces {
                let piece = piece?;
                hasher.update(&piece.data);
                let digest = Digest::of(&piece.data);
                chunks.push(Chunk { digest, size_bytes: piece.length as u64 });
            }
        } else {
            hasher.update_reader(&mut file)?;
        }
        // It shrank while it was read.
        if chunks.len() == 1 {
            chunks.clear();
        }
        Ok(Self { digest: hasher.finalize().into(), size_bytes: hasher.count(), chunks })
    }

    /// The blobs that hold the content, in order.
    pub fn blobs(&self) -> impl Iterator<Item = Chunk> {
        let whole = Chunk { digest: self.digest, size_bytes: self.size_bytes };
        let whole = self.chunks.is_empty().then_some(whole);
        whole.into_iter().chain(self.chunks.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Bytes that do not repeat.
    fn noise(seed: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn digest(content: &[u8]) -> FileDigest {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        FileDigest::of_file(file.path()).unwrap()
    }

    #[test]
    fn a_small_file_is_one_blob() {
        for content in [&b""[..], b"frame", &noise(b"small", WHOLE_BYTES_MAX as usize)] {
            let file = digest(content);
            assert_eq!((file.digest, file.size_bytes), (Digest::of(content), content.len() as u64));
            assert_eq!(file.chunks, []);
            let whole = Chunk { digest: file.digest, size_bytes: file.size_bytes };
            assert_eq!(file.blobs().collect::<Vec<_>>(), [whole]);
        }
    }

    #[test]
    fn the_chunks_of_a_large_file_are_its_bytes_in_order() {
        let content = noise(b"large", 20 << 20);
        let file = digest(&content);
        assert_eq!((file.digest, file.size_bytes), (Digest::of(&content), content.len() as u64));
        assert!((3..20).contains(&file.chunks.len()), "{}", file.chunks.len());
        let mut rest = &content[..];
        for chunk in file.blobs() {
            let (piece, after) = rest.split_at(chunk.size_bytes as usize);
            assert_eq!(Digest::of(piece), chunk.digest);
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn bytes_put_into_a_large_file_change_few_of_its_chunks() {
        let content = noise(b"large", 40 << 20);
        let before = digest(&content);
        let at = 15 << 20;
        let changed = [&content[..at], b"a little more", &content[at..]].concat();
        let after = digest(&changed);
        let new = after.chunks.iter().filter(|chunk| !before.chunks.contains(chunk)).count();
        assert!((1..=3).contains(&new), "{new} of {}", after.chunks.len());
    }
}
