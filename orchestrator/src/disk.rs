//! Folders that survive a power failure, and the space that is left on their disk.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Space of a disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Available to this process.
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// How full the disk of `path` is.
pub(crate) fn room(path: &Path) -> io::Result<Room> {
    let disk = fs4::statvfs(path)?;
    Ok(Room { free_bytes: disk.available_space(), total_bytes: disk.total_space() })
}

/// Creates a folder and its parents, and makes their names durable.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let missing = folder.ancestors().take_while(|above| !above.is_dir()).count();
    fs::create_dir_all(folder)?;
    // An existing folder may come from a process that crashed before its name was durable: sync at least one.
    for made in folder.canonicalize()?.ancestors().take(missing.max(1)) {
        match made.parent().map(sync_folder) {
            // This user did not create a folder that it may not read, so its name is durable.
            Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the names in a folder durable. Only Unix can.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
