//! Which chunks the files of the cache have, so that a new version of a file is fetched only where it differs.
//! Each cached file that came in chunks has a list of them beside it, `<digest>.chunks`. Blocks.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use framecrew_blobs::{Chunk, Digest, FileDigest};

/// Chunks that are remembered: those of a cache full of large files many times over. Others are fetched again.
const CHUNKS_MAX: usize = 1_000_000;

/// Extension of a list.
pub(super) const LIST: &str = "chunks";

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The cached file.
    pub(super) file: Digest,
    pub(super) offset: u64,
}

/// The chunks of cached files. What it says may be gone by now: chunks are checked when they are copied.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<Digest, Found>);

impl Index {
    /// Reads lists. One that cannot be read is as good as none.
    pub(super) fn read(lists: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut index = Self::default();
        for list in lists {
            let digest = list.file_stem().and_then(|name| name.to_str()?.parse().ok());
            if let (Some(digest), Some(chunks)) = (digest, read_list(&list)) {
                index.add(digest, &chunks);
            }
        }
        index
    }

    pub(super) fn add(&mut self, file: Digest, chunks: &[Chunk]) {
        let mut offset: u64 = 0;
        for chunk in chunks {
            if self.0.len() < CHUNKS_MAX {
                self.0.insert(chunk.digest, Found { file, offset });
            }
            offset = offset.saturating_add(chunk.size_bytes);
        }
    }

    pub(super) fn find(&self, chunk: Digest) -> Option<Found> {
        self.0.get(&chunk).copied()
    }
}

/// Writes the list of the chunks of `content`, which is the file `blob`.
pub(super) fn write_list(blob: &Path, content: &FileDigest) -> io::Result<()> {
    let lines =
        content.chunks.iter().map(|chunk| format!("{} {}\n", chunk.digest, chunk.size_bytes));
    fs::write(blob.with_extension(LIST), lines.collect::<String>())
}

fn read_list(list: &Path) -> Option<Vec<Chunk>> {
    let text = fs::read_to_string(list).ok()?;
    let lines = text.lines().map(|line| {
        let (digest, size_bytes) = line.split_once(' ')?;
        Some(Chunk { digest: digest.parse().ok()?, size_bytes: size_bytes.parse().ok()? })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lists_survive_a_restart_and_broken_ones_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"onetwo");
        let blob = folder.path().join(digest.to_string());
        let [one, two] = [b"one", b"two"]
            .map(|bytes| Chunk { digest: Digest::of(bytes), size_bytes: bytes.len() as u64 });
        let content = FileDigest { digest, size_bytes: 6, chunks: vec![one, two] };
        write_list(&blob, &content).unwrap();
        let broken = folder.path().join(format!("{}.{LIST}", Digest::of(b"broken")));
        fs::write(&broken, format!("{} 3\n{}", Digest::of(b"three"), one.digest)).unwrap();
        let index = Index::read([blob.with_extension(LIST), broken, folder.path().join("gone")]);
        assert_eq!(index.find(one.digest), Some(Found { file: digest, offset: 0 }));
        assert_eq!(index.find(two.digest), Some(Found { file: digest, offset: 3 }));
        assert_eq!(index.find(Digest::of(b"three")), None);
    }
}
