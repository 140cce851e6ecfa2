//! Remembers the digests of a project's files, so that a project that has not changed is not read again.
//!
//! A file is taken for unchanged when its path, size, inode and both of its times are those of last time; the time of
//! its last change of any kind is the system's, so nobody sets it back. A file that was changed just before it was
//! read is not remembered: a change within the same tick would not show. What is remembered is never trusted with
//! more than what need not be sent: whatever is sent is hashed on the way.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use etcetera::{BaseStrategy as _, choose_base_strategy};
use framecrew_blobs::{Chunk, Digest, FileDigest};
use serde::{Deserialize, Serialize};

/// How long a file must have been left alone to be remembered: the coarsest clock of a file system ticks every 2 s.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Projects that are remembered: those of a busy month, of 1 MB each if they have thousands of files.
const PROJECTS_MAX: usize = 64;

/// What tells whether a file is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size_bytes: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file as it is; none where the system tells too little.
    #[cfg(unix)]
    pub(super) fn of(file: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = file.metadata().ok()?;
        Some(Self {
            size_bytes: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &Path) -> Option<Self> {
        None
    }

    /// Whether the file was left alone for a while before `now`.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let settled =
            i64::try_from(now.saturating_sub(SETTLED_AFTER).as_secs()).unwrap_or(i64::MAX);
        self.modified.0 < settled && self.changed.0 < settled
    }
}

/// What is remembered of one project.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Where it is kept; nowhere, where there is no folder for that.
    kept_in: Option<PathBuf>,
    known: HashMap<PathBuf, (Stamp, Remembered)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    digest: Digest,
    chunks: Vec<(Digest, u64)>,
}

impl Digests {
    /// Reads what is remembered of the project of `blend`. Whatever is wrong with it, nothing is remembered.
    pub(super) fn read(blend: &Path) -> Self {
        Self::read_from(cache_folder(), blend)
    }

    fn read_from(folder: Option<PathBuf>, blend: &Path) -> Self {
        let name = Digest::of(blend.as_os_str().as_encoded_bytes()).to_string();
        let kept_in = folder.map(|folder| folder.join(format!("{}.json", &name[..32])));
        let text = kept_in.as_ref().and_then(|path| fs::read(path).ok());
        let known = text.and_then(|text| serde_json::from_slice::<Vec<_>>(&text).ok());
        Self { kept_in, known: known.into_iter().flatten().collect() }
    }

    /// The digest of a file with this stamp, if it is remembered.
    pub(super) fn get(&self, file: &Path, stamp: Stamp) -> Option<FileDigest> {
        let (_, remembered) = self.known.get(file).filter(|(known, _)| *known == stamp)?;
        let chunk = |(digest, size_bytes): &(Digest, u64)| Chunk {
            digest: *digest,
            size_bytes: *size_bytes,
        };
        Some(FileDigest {
            digest: remembered.digest,
            size_bytes: stamp.size_bytes,
            chunks: remembered.chunks.iter().map(chunk).collect(),
        })
    }

    /// Remembers these files and no others, but for those that were changed shortly before `began`, when the first
    /// of them was read. That it cannot be kept is no reason to stop.
    pub(super) fn keep<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a Path, Stamp, &'a Digest, &'a [Chunk])>,
        began: SystemTime,
    ) {
        let Some(path) = &self.kept_in else { return };
        let settled = files.into_iter().filter(|(_, stamp, ..)| stamp.is_settled(began));
        let entries: Vec<(&Path, (Stamp, Remembered))> = settled
            // What is not Unicode cannot be written as JSON.
            .filter(|(file, ..)| file.to_str().is_some())
            .map(|(file, stamp, digest, chunks)| {
                let chunks = chunks.iter().map(|chunk| (chunk.digest, chunk.size_bytes)).collect();
                (file, (stamp, Remembered { digest: *digest, chunks }))
            })
            .collect();
        // A project that was only just made may never be seen again.
        if entries.is_empty() {
            return;
        }
        if let Err(error) = write(path, &entries) {
            tracing::debug!(%error, "digests are not remembered");
        }
    }
}

/// Appears whole or not at all.
fn write(path: &Path, entries: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    forget_old(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(io::BufWriter::new(&mut file), entries)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Makes room for one more.
fn forget_old(folder: &Path) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(PROJECTS_MAX);
    kept.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// `$XDG_CACHE_HOME/framecrew/digests`, or below the home folder.
fn cache_folder() -> Option<PathBuf> {
    Some(choose_base_strategy().ok()?.cache_dir().join("framecrew/digests"))
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_is_known_again_until_anything_about_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Some(folder.path().join("cache"));
        let blend = folder.path().join("shot.blend");
        fs::write(&blend, b"one").unwrap();
        let stamp = Stamp::of(&blend).unwrap();
        let digest = FileDigest::of_file(&blend).unwrap();
        let keep = |began| {
            let digests = Digests::read_from(cache.clone(), &blend);
            digests.keep([(blend.as_path(), stamp, &digest.digest, &digest.chunks[..])], began);
            Digests::read_from(cache.clone(), &blend).get(&blend, stamp)
        };
        assert_eq!(keep(SystemTime::now()), None, "it was changed a moment ago");
        assert_eq!(keep(SystemTime::now() + Duration::from_secs(60)), Some(digest.clone()));

        fs::write(&blend, b"two").unwrap();
        let modified = SystemTime::UNIX_EPOCH
            + Duration::new(stamp.modified.0 as u64, stamp.modified.1 as u32);
        fs::File::options().write(true).open(&blend).unwrap().set_modified(modified).unwrap();
        let now = Stamp::of(&blend).unwrap();
        assert_eq!((now.size_bytes, now.modified), (stamp.size_bytes, stamp.modified));
        assert_eq!(
            Digests::read_from(cache, &blend).get(&blend, now),
            None,
            "its time was set back"
        );
    }

    #[test]
    fn the_projects_remembered_are_counted_and_damage_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wood.png");
        fs::write(&file, b"wood").unwrap();
        let (stamp, digest) = (Stamp::of(&file).unwrap(), Digest::of(b"wood"));
        let later = SystemTime::now() + Duration::from_secs(60);
        for number in 0..PROJECTS_MAX + 3 {
            let blend = folder.path().join(format!("{number}.blend"));
            let digests = Digests::read_from(Some(folder.path().join("cache")), &blend);
            digests.keep([(file.as_path(), stamp, &digest, &[][..])], later);
        }
        assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), PROJECTS_MAX);
        for entry in fs::read_dir(folder.path().join("cache")).unwrap() {
            fs::write(entry.unwrap().path(), b"[[\"/a\",").unwrap();
        }
        let blend = folder.path().join("9.blend");
        assert!(Digests::read_from(Some(folder.path().join("cache")), &blend).known.is_empty());
    }
}
