//! The goodbye of a life that ended well while nobody listened. Without it the orchestrator would take the end of
//! that life for a crash, and blame the frames that it had begun. So it is kept on disk, and the next life says it
//! before it registers.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::warn;

#[derive(Debug)]
pub(crate) struct Goodbye {
    file: PathBuf,
    /// The life that owes it.
    owed_by: Mutex<Option<u64>>,
}

impl Goodbye {
    /// What an earlier life left in the data folder.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let file = folder.join("goodbye");
        let owed_by = match fs::read(&file) {
            // A torn one is none, whatever it holds.
            Ok(bytes) => {
                String::from_utf8(bytes).ok().and_then(|incarnation| incarnation.parse().ok())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file, owed_by: Mutex::new(owed_by) })
    }

    /// The earlier life whose goodbye is still to be said.
    pub(crate) fn owed_by(&self) -> Option<u64> {
        *self.lock()
    }

    /// A life ends well: until its goodbye is said, the next one owes it. The renderers must be dead.
    pub(crate) fn owe(&self, incarnation: u64) {
        *self.lock() = Some(incarnation);
        if let Err(error) = fs::write(&self.file, incarnation.to_string()) {
            warn!(%error, "a goodbye that nobody hears will not be said again");
        }
    }

    /// It was heard, or there is nobody left to whom it matters.
    pub(crate) fn said(&self) {
        *self.lock() = None;
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // Said again it names a life that is over, and changes nothing.
                warn!(%error, "cannot remove the goodbye that was said");
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        // No holder panics, so what it holds is still whole.
        self.owed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_goodbye_is_owed_until_it_is_said_and_a_torn_one_keeps_no_node_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Goodbye::read(folder.path()).unwrap();
        assert_eq!(read().owed_by(), None);
        read().owe(7);
        assert_eq!(read().owed_by(), Some(7));
        read().said();
        assert_eq!(read().owed_by(), None);
        for torn in [&b""[..], b"\0\0", b"\xff\xfe"] {
            fs::write(folder.path().join("goodbye"), torn).unwrap();
            assert_eq!(read().owed_by(), None);
        }
    }
}
