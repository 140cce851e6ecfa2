//! The node's data folder: one process has it, and nothing in it is left of the process before.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::warn;

use crate::platform;

/// A data folder that belongs to this process until the value is dropped, or the process dies.
#[derive(Debug)]
pub(crate) struct DataFolder {
    /// Its real path: Blender runs in a folder of its own, where a relative path would mean another one.
    pub(crate) root: PathBuf,
    /// Folder for what renderers write, empty.
    pub(crate) work: PathBuf,
    _lock: fs::File,
}

/// Why a data folder cannot be used.
#[derive(Debug)]
pub(crate) enum DataError {
    Unusable(io::Error),
    InUse,
}

impl From<io::Error> for DataError {
    fn from(error: io::Error) -> Self {
        Self::Unusable(error)
    }
}

impl DataFolder {
    /// Takes a folder, which is created if it does not exist. Ends the renderers that an earlier process left, and
    /// removes their files.
    pub(crate) async fn open(path: &Path) -> Result<Self, DataError> {
        fs::create_dir_all(path)?;
        let lock = lock(path)?;
        let root = fs::canonicalize(path)?;
        let work = root.join("work");
        // Without the lock these might be another node's.
        let left = platform::end_all_in(&work).await;
        if left > 0 {
            warn!(left, "ended processes that an earlier incarnation of this node had left behind");
        }
        // A second time, because one of them may have written a file meanwhile.
        clear(&work).or_else(|_| clear(&work))?;
        Ok(Self { root, work, _lock: lock })
    }
}

fn lock(folder: &Path) -> Result<fs::File, DataError> {
    let file = fs::File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DataError::InUse),
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Makes a folder anew.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
}

/// Returns a number that rises with each start of the node, also if the machine's clock was set back: the last
/// number is kept in the data folder, if it can be read.
pub(crate) fn incarnation(folder: &Path, now: SystemTime) -> u64 {
    let path = folder.join("incarnation");
    let last = fs::read_to_string(&path).ok().and_then(|last| last.parse().ok());
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let next = last.map_or(now, |last: u64| now.max(last.saturating_add(1)));
    // The file is durable before the number is used, and never half-written.
    let keep = || {
        let part = path.with_extension("part");
        let mut file = fs::File::create(&part)?;
        file.write_all(next.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
    };
    // A node whose disk is full must start all the same, to hand in the frames that fill it.
    if let Err(error) = keep() {
        warn!(%error, "cannot save the incarnation number; after a restart with a wrong clock this node may be rejected as outdated");
    }
    next
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_life_is_newer_than_the_last_though_the_clock_is_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let life = |seconds| {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            incarnation(folder.path(), now)
        };
        assert_eq!(life(1_000), 1_000_000_000);
        assert_eq!([life(0), life(1_000), life(1)], [1, 2, 3].map(|n| 1_000_000_000 + n));
        assert_eq!(life(2_000), 2_000_000_000);
        for torn in [&b""[..], b"\0\0", b"\xff\xfe", b"99999999999999999999"] {
            fs::write(folder.path().join("incarnation"), torn).unwrap();
            assert_eq!(life(3), 3_000_000);
        }
    }
}
