//! A large file, put together from its chunks. Blocks.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use framecrew_blobs::{Chunk, Digest};

/// Bytes copied at a time; what a chunk may have is not bounded.
const BUFFER_BYTES: usize = 1 << 20;

/// The unfinished file: so many whole chunks from its beginning.
#[derive(Debug)]
pub(super) struct Assembly {
    file: fs::File,
    path: PathBuf,
    len_bytes: u64,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Assembly {
    /// Opens what an earlier try left at `path`, cut after its last chunk that is right, and tells how many of
    /// `chunks` it has.
    pub(super) fn open(path: PathBuf, chunks: &[Chunk]) -> io::Result<(Self, usize)> {
        let file =
            fs::File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        // A try that nobody waits for any more may still be writing. Some network file systems know no locks.
        if file.lock().is_ok() && !path.exists() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let buffer = vec![0; BUFFER_BYTES];
        let mut assembly = Self { file, path, len_bytes: 0, hasher: blake3::Hasher::new(), buffer };
        let mut whole = 0;
        let mut left = fs::File::open(&assembly.path)?;
        for chunk in chunks {
            if !assembly.take(&mut left, *chunk, false)? {
                break;
            }
            whole += 1;
        }
        assembly.cut()?;
        Ok((assembly, whole))
    }

    /// Appends the chunk that lies at `offset` in the file `from`; false, and nothing appended, when it is not
    /// there.
    pub(super) fn append(&mut self, from: &Path, offset: u64, chunk: Chunk) -> io::Result<bool> {
        let mut from = match fs::File::open(from) {
            Ok(from) => from,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        from.seek(SeekFrom::Start(offset))?;
        let is_taken = self.take(&mut from, chunk, true)?;
        if !is_taken {
            self.cut()?;
        }
        Ok(is_taken)
    }

    /// Reads a chunk and counts it as the next one, if it is right.
    fn take(&mut self, from: &mut fs::File, chunk: Chunk, write: bool) -> io::Result<bool> {
        let mut whole = self.hasher.clone();
        let mut hasher = blake3::Hasher::new();
        let mut left = chunk.size_bytes;
        while left > 0 {
            let want = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
            let some = from.read(&mut self.buffer[..want])?;
            if some == 0 {
                return Ok(false);
            }
            let bytes = &self.buffer[..some];
            whole.update(bytes);
            hasher.update(bytes);
            if write {
                self.file.write_all(bytes)?;
            }
            left -= some as u64;
        }
        if Digest::from(hasher.finalize()) != chunk.digest {
            return Ok(false);
        }
        self.hasher = whole;
        self.len_bytes += chunk.size_bytes;
        Ok(true)
    }

    /// Drops what follows the last chunk.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len_bytes)?;
        self.file.seek(SeekFrom::Start(self.len_bytes)).map(drop)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn discard(self) {
        drop(self.file);
        // Best effort: leftovers are checked before they are used.
        let _ = fs::remove_file(self.path);
    }

    /// Gives the file its name once it is durable; false, and the file is gone, when it is not what `digest`
    /// names.
    pub(super) fn finish(self, digest: Digest, to: &Path) -> io::Result<bool> {
        if Digest::from(self.hasher.finalize()) != digest {
            self.discard();
            return Ok(false);
        }
        self.file.sync_all()?;
        drop(self.file);
        fs::rename(&self.path, to).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn chunk(bytes: &[u8]) -> Chunk {
        Chunk { digest: Digest::of(bytes), size_bytes: bytes.len() as u64 }
    }

    #[test]
    fn a_file_goes_on_after_its_last_right_chunk() {
        let folder = tempfile::tempdir().unwrap();
        let [part, pieces, whole] =
            ["part", "pieces", "whole"].map(|name| folder.path().join(name));
        let chunks = [chunk(b"one"), chunk(b"two"), chunk(b"three")];
        fs::write(&pieces, "..onetwothree").unwrap();
        let (mut assembly, has) = Assembly::open(part.clone(), &chunks).unwrap();
        assert_eq!(has, 0);
        assert!(assembly.append(&pieces, 2, chunks[0]).unwrap());
        assert!(!assembly.append(&pieces, 4, chunks[1]).unwrap(), "other bytes");
        assert!(!assembly.append(&pieces, 12, chunks[1]).unwrap(), "too few bytes");
        assert!(!assembly.append(&folder.path().join("gone"), 0, chunks[1]).unwrap());
        assert!(assembly.append(&pieces, 5, chunks[1]).unwrap());
        drop(assembly);

        for (leftover, right) in [("onetwo", 2), ("onetwoTH", 2), ("onetWo", 1), ("o", 0)] {
            fs::write(&part, leftover).unwrap();
            let (mut assembly, has) = Assembly::open(part.clone(), &chunks).unwrap();
            assert_eq!(has, right, "{leftover}");
            for (n, offset) in [2, 5, 8].into_iter().enumerate().skip(has) {
                assert!(assembly.append(&pieces, offset, chunks[n]).unwrap());
            }
            assert!(assembly.finish(Digest::of(b"onetwothree"), &whole).unwrap());
            assert_eq!(fs::read(&whole).unwrap(), b"onetwothree");
            assert!(!part.exists());
        }
    }

    #[test]
    fn chunks_that_are_not_the_file_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [part, pieces, whole] =
            ["part", "pieces", "whole"].map(|name| folder.path().join(name));
        fs::write(&pieces, "one").unwrap();
        let (mut assembly, _) = Assembly::open(part.clone(), &[chunk(b"one")]).unwrap();
        assert!(assembly.append(&pieces, 0, chunk(b"one")).unwrap());
        assert!(!assembly.finish(Digest::of(b"two"), &whole).unwrap());
        assert!(!part.exists() && !whole.exists());
    }
}
