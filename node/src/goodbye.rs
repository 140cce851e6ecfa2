//! The goodbye of a life that ended well while nobody listened. Without it the orchestrator would take the end of
//! that life for a crash, and blame the frames that it had begun. So it is kept on disk, and the next life says it
//! before it registers.
//!
//! Only then does a life know whose cluster it is in, and it may be another one, or have another name. A goodbye is true
//! everywhere, so it is said to whoever is asked first; it is kept until the orchestrator to whom it is owed has heard it.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// Goodbyes that are kept; a folder that has been in more clusters loses the oldest.
const OWED_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Goodbye {
    file: PathBuf,
    owed: Mutex<Vec<Owed>>,
}

/// A life that ended well, and to whom that is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owed {
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    /// The orchestrator's store; empty: nobody knows.
    pub(crate) store_id: String,
    /// Whether this is not the store of the orchestrator at hand.
    #[serde(skip)]
    is_anothers: bool,
}

impl Goodbye {
    /// What earlier lives left in the data folder.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let file = folder.join("goodbye");
        let owed = match fs::read(&file) {
            // A torn one is none, whatever it holds.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, owed: Mutex::new(owed) })
    }

    /// All that are still to be said.
    pub(crate) fn owed(&self) -> Vec<Owed> {
        self.lock().clone()
    }

    /// A life whose goodbye the orchestrator at hand may be waiting for.
    pub(crate) fn owed_by(&self) -> Option<u64> {
        self.lock().iter().find(|owed| !owed.is_anothers).map(|owed| owed.incarnation)
    }

    /// A life ends well: until its goodbye is said, the next one owes it. The renderers must be dead.
    pub(crate) fn owe(&self, name: String, incarnation: u64, store_id: String) {
        let mut owed = self.lock();
        if owed.len() >= OWED_MAX {
            owed.remove(0);
        }
        owed.push(Owed { name, incarnation, store_id, is_anothers: false });
        self.write(&owed);
    }

    /// The orchestrator to whom a life owed it has heard it.
    pub(crate) fn said(&self, incarnation: u64) {
        let mut owed = self.lock();
        owed.retain(|owed| owed.incarnation != incarnation);
        self.write(&owed);
    }

    /// An orchestrator with this store has heard all of them. Those that it was owed are done.
    pub(crate) fn heard_by(&self, store_id: &str) {
        let mut owed = self.lock();
        if owed.is_empty() {
            return;
        }
        for owed in owed.iter_mut() {
            owed.is_anothers = ![store_id, ""].contains(&owed.store_id.as_str());
        }
        owed.retain(|owed| owed.is_anothers);
        self.write(&owed);
    }

    fn write(&self, owed: &[Owed]) {
        let written = match serde_json::to_vec(owed) {
            Ok(_) if owed.is_empty() => fs::remove_file(&self.file),
            Ok(bytes) => fs::write(&self.file, bytes),
            Err(error) => Err(error.into()),
        };
        match written {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // One too many names a life that is over, and changes nothing.
                warn!(%error, "goodbyes that nobody has heard may be lost, or said again");
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Owed>> {
        // No holder panics, so what it holds is still whole.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
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
        read().owe("node".into(), 7, "store".into());
        assert_eq!(read().owed_by(), Some(7));
        read().said(7);
        assert_eq!(read().owed_by(), None);
        assert!(!folder.path().join("goodbye").exists());
        for torn in [&b""[..], b"\0\0", b"\xff\xfe", b"7", br#"[{"name":"node","incar"#] {
            fs::write(folder.path().join("goodbye"), torn).unwrap();
            assert_eq!(read().owed_by(), None);
        }
    }

    #[test]
    fn a_goodbye_keeps_its_name_and_waits_for_the_cluster_to_which_it_is_owed() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Goodbye::read(folder.path()).unwrap();
        read().owe("former".into(), 7, "ours".into());
        read().owe("node".into(), 8, String::new());
        let elsewhere = read();
        assert_eq!(elsewhere.owed_by(), Some(7), "nobody knows yet where this is");
        elsewhere.heard_by("theirs");
        assert_eq!(elsewhere.owed_by(), None, "nobody there waits for it");
        elsewhere.owe("node".into(), 9, "theirs".into());
        assert_eq!(elsewhere.owed_by(), Some(9));
        elsewhere.said(9);
        let back = read();
        let [Owed { name, incarnation: 7, .. }] = &back.owed()[..] else { panic!("{back:?}") };
        assert_eq!(name, "former");
        back.heard_by("ours");
        assert_eq!(read().owed(), []);
    }
}
