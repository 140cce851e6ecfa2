//! Blobs as files of a local directory.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::{
    fs,
    io::{self, Read as _, Seek as _, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use framecrew_blobs::Digest;

use super::{
    backend::{Backend, Entry, StagedId},
    layout::{blob_path, digest_of, is_unfinished, shards, unfinished_path},
};
use crate::disk::{self, Room, sync_folder};

/// Files or folders above which the whole file system is synced at once: one wait instead of many. Below that number,
/// waiting for everything else that is being written costs more.
const SYNC_EACH_MAX: usize = 8;

/// A directory that holds blobs.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// Open from the start, so that every failed write is reported to this process.
    #[cfg(target_os = "linux")]
    handle: fs::File,
    /// Whether syncing the file system has failed. The system reports that once, although later groups may be lost,
    /// too; for a single file it reports a failure to each process that asks.
    #[cfg(target_os = "linux")]
    has_lost: AtomicBool,
}

impl Folder {
    /// Opens the directory, created if need be with all shards at once, so that no upload depends on a folder that
    /// is not yet durable. Removes uploads that a crash left unfinished, and makes durable the names that were given
    /// before it: from now on they are believed.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut removed = 0;
        for shard in shards() {
            let shard = dir.join(shard);
            fs::create_dir_all(&shard)?;
            for entry in fs::read_dir(&shard)? {
                let entry = entry?;
                if is_unfinished(&entry.file_name().to_string_lossy()) {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
        }
        if removed > 0 {
            tracing::info!(removed, "removed uploads that the last run left unfinished");
        }
        sync_folder(dir)?;
        if let Some(parent) = dir.canonicalize()?.parent() {
            sync_folder(parent)?;
        }
        // One by one: the file system may have much else to write, and nothing is served meanwhile.
        shards().try_for_each(|shard| sync_folder(&dir.join(shard)))?;
        Ok(Self {
            #[cfg(target_os = "linux")]
            handle: fs::File::open(dir)?,
            dir: dir.to_owned(),
            #[cfg(target_os = "linux")]
            has_lost: AtomicBool::new(false),
        })
    }

    /// Syncs the whole file system; false where the system cannot, or its answers can no longer be trusted.
    fn sync_all(&self) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        return self.sync_all_by(|| Ok(rustix::fs::syncfs(&self.handle)?));
        #[cfg(not(target_os = "linux"))]
        Ok(false)
    }

    #[cfg(target_os = "linux")]
    pub(super) fn sync_all_by(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
        if self.has_lost.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let synced = sync();
        self.has_lost.store(synced.is_err(), Ordering::Relaxed);
        synced.map(|()| true)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        blob_path(&self.dir, digest)
    }

    fn staged_path(&self, staged: StagedId) -> PathBuf {
        unfinished_path(&self.dir, staged.digest, staged.number)
    }
}

impl Backend for Folder {
    fn stage(&self, staged: StagedId) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(fs::File::create_new(self.staged_path(staged))?))
    }

    fn discard(&self, staged: StagedId) -> io::Result<()> {
        match fs::remove_file(self.staged_path(staged)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn sync(&self, group: &[StagedId]) -> io::Result<()> {
        if group.len() > SYNC_EACH_MAX && self.sync_all()? {
            return Ok(());
        }
        group.iter().try_for_each(|staged| {
            fs::File::options().append(true).open(self.staged_path(*staged))?.sync_all()
        })
    }

    fn publish(&self, group: &[StagedId]) -> io::Result<()> {
        let mut shards = Vec::new();
        for staged in group {
            let path = self.path(staged.digest);
            fs::rename(self.staged_path(*staged), &path)?;
            shards.extend(path.parent().map(Path::to_owned));
        }
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > SYNC_EACH_MAX && self.sync_all()? {
            return Ok(());
        }
        shards.iter().try_for_each(|shard| sync_folder(shard))
    }

    fn find(&self, digest: Digest) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(digest)) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, digest: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(self.path(digest))?;
        file.seek(io::SeekFrom::Start(range.start))?;
        let len = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, each: &mut dyn FnMut(Entry)) -> io::Result<()> {
        for shard in shards() {
            for entry in fs::read_dir(self.dir.join(&shard))? {
                let name = entry?.file_name();
                // Skips unfinished uploads and files that others put there.
                let Some(digest) = name.to_str().and_then(|name| digest_of(&shard, name)) else {
                    continue;
                };
                if let Some(size_bytes) = self.find(digest)? {
                    each(Entry { digest, size_bytes });
                }
            }
        }
        Ok(())
    }

    fn remove(&self, digest: Digest) -> io::Result<()> {
        fs::remove_file(self.path(digest))
    }

    fn room(&self) -> io::Result<Option<Room>> {
        disk::room(&self.dir).map(Some)
    }
}
