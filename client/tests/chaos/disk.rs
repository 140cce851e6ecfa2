//! Folders on small file systems of their own, which can be filled to the last byte in no time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Bytes of a folder's file system, of which only what is used takes memory.
const ROOM_BYTES: u64 = 8 << 30;
/// Bytes that are left when a disk is full: less than anybody's next write.
const LEFT_BYTES: u64 = 4 << 10;

/// A folder for a server's data. Dropping it takes the file system away, with what is on it.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    is_mounted: bool,
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: something that should not be there may still use it, and the checker tells of that.
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

impl Disk {
    /// A folder at `path`, on a file system of its own where this user may mount one.
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={ROOM_BYTES},mode=0755"), "tmpfs"]);
        let mount = mount.arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let is_mounted = mount.is_ok_and(|status| status.success());
        Self { path, is_mounted }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can be filled.
    pub(crate) fn is_mounted(&self) -> bool {
        self.is_mounted
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let now = rustix::fs::statvfs(&self.path).unwrap();
        let used = (now.f_blocks - now.f_bfree) * now.f_frsize;
        self.resize(used + LEFT_BYTES);
    }

    pub(crate) fn empty(&self) {
        self.resize(ROOM_BYTES);
    }

    fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        let _ = Command::new("mount").args(["-o", &size]).arg(&self.path).status();
    }
}
