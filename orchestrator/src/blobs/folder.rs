//! Blobs as files of a local directory: `ab/cdef…`, sharded by the first byte of the digest. Blocks.

use std::{
    fs, io,
    io::{Read as _, Seek as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use framecrew_blobs::Digest;

use super::layout::{blob_path, digest_of, is_unfinished, shards, unfinished_path};
use crate::disk::{self, Room, sync_folder};

/// Files or folders above which the whole file system is made durable at once: one wait instead of many. Below,
/// whatever else is being written to it would only be in the way.
const SYNC_EACH_MAX: usize = 8;

/// A directory that holds blobs.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// Open from the start, so that no failed write goes untold.
    #[cfg(target_os = "linux")]
    handle: fs::File,
    staged: AtomicU64,
    /// Whether making everything durable at once has failed. The system tells that once, though it may have lost
    /// what is in a later group, too; of a single file it tells whoever asks next.
    #[cfg(target_os = "linux")]
    has_lost: std::sync::atomic::AtomicBool,
}

/// A blob on its way in, under a name that nobody looks for. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) digest: Digest,
    /// Open while it is written: hundreds may wait to be made durable.
    file: Option<fs::File>,
    path: PathBuf,
    /// Whether it has its name.
    pub(super) is_kept: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Windows removes no file that is open.
        self.close();
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(digest = %self.digest, %error, "an unfinished upload could not be removed");
        }
    }
}

impl Staged {
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(data),
            None => Err(io::Error::other("a blob is written to after its end")),
        }
    }

    /// All bytes are written.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::options().append(true).open(&self.path)?.sync_all()
    }
}

/// A blob as it lies there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// When it was last stored or asked for.
    pub(crate) used_at: SystemTime,
}

impl Folder {
    /// Opens the directory, made if need be with all shards at once, so that no upload depends on a folder that
    /// is not yet durable. Removes what uploads left there when the last process was killed, and makes durable
    /// the names that it had given by then: from now on they are believed.
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
        // One by one: the whole file system may have much to write that is not ours, and nobody serves meanwhile.
        shards().try_for_each(|shard| sync_folder(&dir.join(shard)))?;
        Ok(Self {
            #[cfg(target_os = "linux")]
            handle: fs::File::open(dir)?,
            dir: dir.to_owned(),
            staged: AtomicU64::new(0),
            #[cfg(target_os = "linux")]
            has_lost: std::sync::atomic::AtomicBool::new(false),
        })
    }

    pub(super) fn stage(&self, digest: Digest) -> io::Result<Staged> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = unfinished_path(&self.dir, digest, number);
        let file = fs::File::create_new(&path)?;
        Ok(Staged { digest, file: Some(file), path, is_kept: false })
    }

    /// Makes the bytes of `blobs` durable: what may bear a name is there whatever happens.
    pub(super) fn sync(&self, blobs: &[Staged]) -> io::Result<()> {
        if blobs.len() > SYNC_EACH_MAX && self.sync_all()? {
            return Ok(());
        }
        blobs.iter().try_for_each(Staged::sync)
    }

    /// Gives `blobs`, which are durable, their names, and makes those durable too. After an error some may
    /// have theirs, and lose it with the power.
    pub(super) fn name(&self, blobs: &mut [Staged]) -> io::Result<()> {
        let mut shards = Vec::new();
        for blob in &mut *blobs {
            let path = self.path(blob.digest);
            fs::rename(&blob.path, &path)?;
            blob.is_kept = true;
            shards.extend(path.parent().map(Path::to_owned));
        }
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > SYNC_EACH_MAX && self.sync_all()? {
            return Ok(());
        }
        shards.iter().try_for_each(|shard| sync_folder(shard))
    }

    /// Makes all that was written durable; false where the system cannot, or is not to be believed any more.
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

    /// What is known of a blob; `None` when it is not there.
    pub(super) fn find(&self, digest: Digest) -> io::Result<Option<Entry>> {
        match fs::metadata(self.path(digest)) {
            Ok(file) => {
                let (size_bytes, used_at) = (file.len(), file.modified()?);
                Ok(Some(Entry { digest, size_bytes, used_at }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes that a blob is in use at `now`.
    pub(super) fn touch(&self, digest: Digest, now: SystemTime) -> io::Result<()> {
        fs::File::options().append(true).open(self.path(digest))?.set_modified(now)
    }

    /// Reads the bytes of `range`; fewer when the file ends before.
    pub(super) fn read(&self, digest: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(self.path(digest))?;
        file.seek(io::SeekFrom::Start(range.start))?;
        let len = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The hash of the bytes that are there.
    pub(super) fn hash(&self, digest: Digest) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(self.path(digest))?)?;
        Ok(Digest::from(hasher.finalize()))
    }

    /// How full the disk is; `None` where the system cannot say.
    pub(super) fn room(&self) -> io::Result<Option<Room>> {
        disk::room(&self.dir)
    }

    pub(super) fn remove(&self, digest: Digest) -> io::Result<()> {
        fs::remove_file(self.path(digest))
    }

    /// Every blob, shard by shard.
    pub(super) fn for_each(&self, mut each: impl FnMut(Entry)) -> io::Result<()> {
        for shard in shards() {
            for entry in fs::read_dir(self.dir.join(&shard))? {
                let name = entry?.file_name();
                let digest = name.to_str().and_then(|name| digest_of(&shard, name));
                // Uploads on their way in, and what others put there.
                let Some(digest) = digest else { continue };
                if let Some(entry) = self.find(digest)? {
                    each(entry);
                }
            }
        }
        Ok(())
    }

    fn path(&self, digest: Digest) -> PathBuf {
        blob_path(&self.dir, digest)
    }
}
