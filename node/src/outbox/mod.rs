//! Finished frames, kept on disk until nobody can ask for them any more, and on their way into the blob store.
//!
//! `outbox/<batch>-<incarnation>-<binding>.journal` lists the finished frames of a batch, `outbox/blobs/<digest>` holds
//! their blobs, each content once. A frame is written down before its blobs travel and before anyone learns of it, so
//! that neither a broken link nor a killed process costs it. Nothing is synced: after a power cut frames are rendered
//! again. Which journals are offered and deleted, and when, the [core](crate::core) decides; this is the disk.

mod journal;
mod shelf;

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use framecrew_blobs::Digest;
use framecrew_proto::v1::SliceFinished;
use tracing::info;

use self::shelf::Shelf;
pub(crate) use self::{
    journal::Origin,
    shelf::{NotKept, blobs_of},
};
use crate::{core::JournalId, output::Blob};

/// Bytes that kept frames take unless the node is told otherwise: some hundred large frames, and small beside the
/// disks of machines that render.
pub(crate) const OUTBOX_BYTES: u64 = 8 << 30;

/// Frames that are kept: as many as the batches that a node keeps have slices.
const FRAMES_MAX: usize = 256 * 1_024;

/// Share of either bound, in percent, from which on the node takes no more work.
const FULL_PERCENT: u64 = 80;

/// Finished frames of this node.
#[derive(Debug)]
pub(crate) struct Outbox {
    shelf: Mutex<Shelf>,
    bytes_max: u64,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) frames: u32,
    pub(crate) bytes: u64,
    pub(crate) bytes_max: u64,
    /// Whether so much is kept that no more work should be taken on.
    pub(crate) is_nearly_full: bool,
}

impl Outbox {
    /// Opens the outbox in `folder`, with the journals that an earlier incarnation left. Blobs that no journal names are
    /// deleted.
    pub(crate) fn open(folder: PathBuf, incarnation: u64, bytes_max: u64) -> io::Result<Self> {
        let shelf = Shelf::open(folder, incarnation)?;
        if shelf.frames() > 0 {
            let (frames, bytes) = (shelf.frames(), shelf.bytes());
            info!(frames, bytes, "found frames of an earlier incarnation");
        }
        Ok(Self { shelf: Mutex::new(shelf), bytes_max })
    }

    /// The store of each journal that an earlier incarnation left, oldest first: [`JournalId::Found`] counts them.
    pub(crate) fn found(&self) -> Vec<Arc<str>> {
        self.shelf().found()
    }

    /// Writes a finished frame down and takes its files over: afterwards `blobs` name them where they are now.
    pub(crate) fn keep(
        &self,
        journal: JournalId,
        origin: &Origin,
        finished: &SliceFinished,
        blobs: &mut [Blob],
    ) -> Result<(), NotKept> {
        let mut shelf = self.shelf();
        if shelf.frames() >= FRAMES_MAX || shelf.bytes_with(blobs) > self.bytes_max {
            return Err(NotKept::Full);
        }
        shelf.keep(journal, origin, finished, blobs)
    }

    /// The store of the orchestrator that asked for a journal's frames; empty: there is no such journal.
    pub(crate) fn store_id(&self, journal: JournalId) -> String {
        self.shelf().file(journal).map(|(_, origin)| origin.store_id).unwrap_or_default()
    }

    /// A batch finishes nothing more.
    pub(crate) fn close(&self, journal: JournalId) {
        self.shelf().close(journal);
    }

    /// A journal's origin and its frames, as far as they can be read. `None`: there is no such journal. Blocks.
    pub(crate) fn read(
        &self,
        journal: JournalId,
    ) -> io::Result<Option<(Origin, Vec<SliceFinished>)>> {
        let Some((path, origin)) = self.shelf().file(journal) else { return Ok(None) };
        let frames = match fs::read(path) {
            Ok(bytes) => journal::read(&bytes).map(|(_, frames)| frames).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Some((origin, frames)))
    }

    /// Deletes a journal, and the blobs that only it names. Blocks: a thousand files take the disk a while.
    pub(crate) fn delete(&self, journal: JournalId) {
        let digests = self.shelf().remove(journal);
        for digest in digests {
            // Locked for one file at a time: frames are kept meanwhile.
            self.shelf().release(digest);
        }
    }

    /// Where the bytes of a kept blob are.
    pub(crate) fn place(&self, digest: Digest) -> PathBuf {
        self.shelf().place(digest)
    }

    pub(crate) fn kept(&self) -> Kept {
        let (frames, bytes) = {
            let shelf = self.shelf();
            (shelf.frames(), shelf.bytes())
        };
        let share = |of: u64, max: u64| of.saturating_mul(100) >= max.saturating_mul(FULL_PERCENT);
        Kept {
            frames: u32::try_from(frames).unwrap_or(u32::MAX),
            bytes,
            bytes_max: self.bytes_max,
            is_nearly_full: share(bytes, self.bytes_max) || share(frames as u64, FRAMES_MAX as u64),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic under the lock leaves at most a blob too many.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use framecrew_proto::v1::{Output, Slice};

    use std::path::Path;

    use super::{shelf::BLOBS, *};
    use crate::{
        core::{BatchId, BatchKey},
        output::Content,
    };

    fn open(folder: &Path, bytes_max: u64) -> Outbox {
        Outbox::open(folder.to_owned(), 1, bytes_max).unwrap()
    }

    fn of(batch: u64) -> JournalId {
        JournalId::Of(BatchKey { binding: 0, id: BatchId(batch) })
    }

    fn keep(outbox: &Outbox, batch_id: u64, frame: i32, content: &[u8]) -> Result<(), NotKept> {
        let origin = Origin { store_id: "store".into(), job_id: 7, batch_id };
        let (digest, size_bytes) = (Digest::of(content), content.len() as u64);
        let output = Output { digest: digest.to_string(), size_bytes, ..Output::default() };
        let finished = SliceFinished {
            slice: Some(Slice { frame, index: 0 }),
            outputs: vec![output],
            ..SliceFinished::default()
        };
        let content = Content::Memory(content.to_owned().into());
        let mut blobs = [Blob { digest, size_bytes, content }];
        outbox.keep(of(batch_id), &origin, &finished, &mut blobs)
    }

    fn files(folder: &Path) -> usize {
        let journals = fs::read_dir(folder).unwrap().count() - 1;
        journals + fs::read_dir(folder.join(BLOBS)).unwrap().count()
    }

    #[test]
    fn a_content_is_kept_once_and_goes_with_the_last_batch_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path(), 1_000);
        for frame in 1..=9 {
            keep(&outbox, 1, frame, b"same").unwrap();
        }
        keep(&outbox, 2, 1, b"same").unwrap();
        let kept = outbox.kept();
        assert_eq!((kept.frames, kept.bytes), (10, 4));
        outbox.close(of(1));
        outbox.delete(of(1));
        assert_eq!((outbox.kept().frames, outbox.kept().bytes), (1, 4));
        assert_eq!(fs::read(outbox.place(Digest::of(b"same"))).unwrap(), b"same");
        outbox.delete(of(2));
        assert_eq!((outbox.kept().frames, outbox.kept().bytes), (0, 0));
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn batches_of_two_stores_with_the_same_number_have_a_journal_each() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path(), 1_000);
        keep(&outbox, 1, 1, b"one").unwrap();
        outbox.close(of(1));
        let other = JournalId::Of(BatchKey { binding: 1, id: BatchId(1) });
        let origin = Origin { store_id: "another".into(), job_id: 7, batch_id: 1 };
        outbox.keep(other, &origin, &SliceFinished::default(), &mut []).unwrap();
        outbox.delete(other);
        let (origin, frames) = outbox.read(of(1)).unwrap().unwrap();
        assert_eq!((origin.store_id.as_str(), frames.len()), ("store", 1));
    }

    #[test]
    fn the_next_incarnation_finds_what_was_finished_and_deletes_what_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 1_000);
        keep(&first, 1, 1, b"one").unwrap();
        keep(&first, 2, 1, b"two").unwrap();
        first.close(of(1));
        first.close(of(2));
        drop(first);
        let blobs = folder.path().join(BLOBS);
        fs::write(blobs.join("half.part"), "on its way").unwrap();
        fs::write(blobs.join(Digest::of(b"nobody's").to_string()), "nobody's").unwrap();
        fs::write(folder.path().join("3-1.journal"), "torn").unwrap();
        let second = open(folder.path(), 1_000);
        let kept = second.kept();
        assert_eq!((kept.frames, kept.bytes, files(folder.path())), (2, 6, 4));
        assert_eq!(second.found(), ["store".into(), "store".into()]);
        for (number, batch) in [1, 2].into_iter().enumerate() {
            let (origin, frames) = second.read(JournalId::Found(number)).unwrap().unwrap();
            assert_eq!((origin.batch_id, frames.len()), (batch, 1));
        }
    }

    #[test]
    fn what_somebody_else_put_into_the_outbox_is_left_alone_and_costs_no_frame() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 1_000);
        keep(&first, 1, 1, b"one").unwrap();
        first.close(of(1));
        drop(first);
        fs::write(folder.path().join("blobs/notes.txt"), "by somebody").unwrap();
        let strays = ["notes", "2-1.journal", "blobs/pictures"];
        for stray in strays {
            fs::create_dir_all(folder.path().join(stray)).unwrap();
            fs::write(folder.path().join(stray).join("kept"), "by somebody").unwrap();
        }
        let second = open(folder.path(), 1_000);
        assert_eq!((second.kept().frames, second.kept().bytes), (1, 3));
        for stray in strays {
            assert!(folder.path().join(stray).join("kept").is_file(), "{stray}");
        }
        assert!(folder.path().join("blobs/notes.txt").is_file());
    }

    #[test]
    fn a_full_outbox_keeps_nothing_more_and_says_so_before() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path(), 10);
        keep(&outbox, 1, 1, b"1234567").unwrap();
        assert!(!outbox.kept().is_nearly_full);
        assert!(matches!(keep(&outbox, 1, 2, b"abcd"), Err(NotKept::Full)));
        keep(&outbox, 1, 3, b"8").unwrap();
        assert!(outbox.kept().is_nearly_full);
        keep(&outbox, 1, 4, b"1234567").unwrap();
        assert_eq!(outbox.kept().frames, 3);
    }

    #[test]
    fn a_file_is_taken_over_and_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(&folder.path().join("outbox"), 1_000);
        let drawn = folder.path().join("0001.png");
        fs::write(&drawn, "picture").unwrap();
        let digest = Digest::of(b"picture");
        let mut blobs = [Blob { digest, size_bytes: 7, content: Content::File(drawn.clone()) }];
        outbox.keep(of(1), &Origin::default(), &SliceFinished::default(), &mut blobs).unwrap();
        assert!(!drawn.exists());
        let Content::File(path) = &blobs[0].content else { panic!("{blobs:?}") };
        assert_eq!(fs::read(path).unwrap(), b"picture");
    }
}
