//! A folder for a cluster that lives no longer than its command.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use framecrew_node::blender;
use tempfile::TempDir;

use crate::console::Failure;

/// How the names of such folders begin.
const PREFIX: &str = "local-";
/// In such a folder: locked for as long as it is in use.
const LOCK: &str = "lock";

/// A folder in the cache, as `/tmp` may be memory. It goes when this is dropped; that of a command that was killed
/// goes when the next one begins.
#[derive(Debug)]
pub(crate) struct Scratch {
    // Closed before the folder goes: Windows keeps what is open.
    _lock: File,
    folder: TempDir,
}

impl Scratch {
    /// Makes one.
    pub(crate) fn new() -> Result<Self, Failure> {
        let cache = blender::default_cache();
        Self::new_in(&cache).map_err(|error| {
            Failure::usage(format!(
                "cannot write to {}: {error}; set XDG_CACHE_HOME to a folder with space",
                cache.display()
            ))
        })
    }

    fn new_in(cache: &Path) -> io::Result<Self> {
        fs::create_dir_all(cache)?;
        sweep(cache)?;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(cache)?;
        // It has its name only when it is held: until then nobody takes the folder for an abandoned one.
        let unheld = folder.path().join("lock-to-be");
        let lock = File::create(&unheld)?;
        lock.lock()?;
        fs::rename(unheld, folder.path().join(LOCK))?;
        Ok(Self { _lock: lock, folder })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Takes away what commands that were killed have left.
fn sweep(cache: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let is_scratch = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = File::open(entry.path().join(LOCK));
        if is_scratch && lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // What will not go does no harm; perhaps another command is taking it away as well.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_folder_of_a_command_that_was_killed_goes_when_the_next_one_begins() {
        let cache = tempfile::tempdir().unwrap();
        let live = Scratch::new_in(cache.path()).unwrap();
        let Scratch { _lock: lock, folder } = Scratch::new_in(cache.path()).unwrap();
        let killed = folder.keep();
        fs::create_dir(killed.join("orchestrator")).unwrap();
        drop(lock);
        let others = ["local-of-a-person", "blender"].map(|name| cache.path().join(name));
        others.iter().for_each(|path| fs::create_dir(path).unwrap());

        let next = Scratch::new_in(cache.path()).unwrap();
        assert!(!killed.exists());
        assert!(live.path().join(LOCK).exists() && next.path().exists());
        assert!(others.iter().all(|path| path.exists()));
        let gone = next.path().to_owned();
        drop(next);
        assert!(!gone.exists());
    }
}
