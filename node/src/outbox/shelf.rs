//! The outbox on disk: journals, and the blobs that they name.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use framecrew_blobs::Digest;
use framecrew_proto::v1::SliceFinished;
use tokio::time::Instant;
use tracing::warn;

use super::journal::{self, Origin};
use crate::{
    core::JournalId,
    output::{Blob, Content},
};

/// Folder of the kept blobs, in the outbox.
pub(super) const BLOBS: &str = "blobs";

/// Extension of journals.
const JOURNAL: &str = "journal";
/// Extension of blobs that are not all there yet.
const PART: &str = "part";

/// How often a batch's journal is written to, at most. What a process that is killed had not written yet took no
/// longer than this to draw; without it, frames that take no time would wait for the disk.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);

/// The folder of kept frames, and an index of it.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    /// Journals have it in their names: after a restart the same batch ids may come again.
    incarnation: u64,
    journals: HashMap<JournalId, Journal>,
    /// Each content with its size in bytes and the number of journals that name it.
    blobs: HashMap<Digest, (u64, usize)>,
    bytes: u64,
    frames: usize,
}

/// Where a batch's frames are written down.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    origin: Origin,
    /// Open while the batch goes on, with the length that is known to be good.
    file: Option<(File, u64)>,
    /// Not written yet.
    buffer: Vec<u8>,
    written: Option<Instant>,
    frames: usize,
    digests: HashSet<Digest>,
}

/// Why a frame was not kept. It can be stored all the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("the outbox is full")]
    Full,
    #[error("the outbox cannot be written to: {0}")]
    Disk(#[from] io::Error),
}

impl Shelf {
    /// What an earlier incarnation left in `folder`.
    pub(super) fn open(folder: PathBuf, incarnation: u64) -> io::Result<Self> {
        fs::create_dir_all(folder.join(BLOBS))?;
        let mut shelf = Self {
            folder,
            incarnation,
            journals: HashMap::new(),
            blobs: HashMap::new(),
            bytes: 0,
            frames: 0,
        };
        shelf.find()?;
        Ok(shelf)
    }

    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes that would be kept with these blobs, too.
    pub(super) fn bytes_with(&self, blobs: &[Blob]) -> u64 {
        let new = blobs.iter().filter(|blob| !self.blobs.contains_key(&blob.digest));
        let new: HashMap<_, _> = new.map(|blob| (blob.digest, blob.size_bytes)).collect();
        self.bytes.saturating_add(new.values().sum())
    }

    pub(super) fn found(&self) -> Vec<Arc<str>> {
        let found = (0..).map_while(|number| self.journals.get(&JournalId::Found(number)));
        found.map(|journal| journal.origin.store_id.as_str().into()).collect()
    }

    /// Where a journal is, and whose frames it holds.
    pub(super) fn file(&self, journal: JournalId) -> Option<(PathBuf, Origin)> {
        let journal = self.journals.get(&journal)?;
        Some((journal.path.clone(), journal.origin.clone()))
    }

    pub(super) fn keep(
        &mut self,
        journal: JournalId,
        origin: &Origin,
        finished: &SliceFinished,
        blobs: &mut [Blob],
    ) -> Result<(), NotKept> {
        let placed = blobs.iter_mut().try_for_each(|blob| self.take_over(blob));
        // Also with a part of its blobs: they are deleted with the journal.
        self.write_down(journal, origin, finished, blobs);
        Ok(placed?)
    }

    /// Moves a blob here, unless its content is here already.
    fn take_over(&mut self, blob: &mut Blob) -> io::Result<()> {
        let place = self.place(blob.digest);
        if let Entry::Vacant(new) = self.blobs.entry(blob.digest) {
            match &blob.content {
                Content::File(path) => fs::rename(path, &place)?,
                Content::Memory(bytes) => write_whole(&place, bytes)?,
            }
            new.insert((blob.size_bytes, 0));
            self.bytes += blob.size_bytes;
        }
        // What is in memory need not be read again.
        if let Content::File(path) = &mut blob.content {
            *path = place;
        }
        Ok(())
    }

    pub(super) fn close(&mut self, journal: JournalId) {
        if let Some(journal) = self.journals.get_mut(&journal) {
            journal.write();
            journal.file = None;
        }
    }

    /// Deletes a journal, and returns the blobs that it named.
    pub(super) fn remove(&mut self, journal: JournalId) -> HashSet<Digest> {
        let Some(journal) = self.journals.remove(&journal) else { return HashSet::new() };
        let Journal { path, frames, digests, file, .. } = journal;
        drop(file);
        // Before the blobs: the next start deletes those that no journal names.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %error, "cannot delete what is not needed any more");
        }
        self.frames -= frames;
        digests
    }

    /// Where the bytes of a kept blob are.
    pub(super) fn place(&self, digest: Digest) -> PathBuf {
        self.folder.join(BLOBS).join(digest.to_string())
    }

    /// Reads what is there. What is none of its own, or cannot be read, is left alone: it costs no node its start.
    /// Nothing tells the blobs of an unreadable journal from nobody's: then all are left to the next start.
    fn find(&mut self) -> io::Result<()> {
        let mut knows_all = true;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != JOURNAL) {
                continue;
            }
            // Not opened unless it is a file: a pipe would never end.
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                left_alone(&path, "it is no file");
                continue;
            }
            let journal = match fs::read(&path) {
                Ok(bytes) => journal::read(&bytes),
                Err(error) => {
                    left_alone(&path, &error.to_string());
                    knows_all = false;
                    continue;
                }
            };
            let Some((origin, frames)) = journal else {
                remove(&path);
                continue;
            };
            let mut digests = HashSet::new();
            for (digest, size_bytes) in frames.iter().flat_map(blobs_of) {
                // A blob that is not there costs its frame, when it is offered.
                let is_there =
                    fs::metadata(self.place(digest)).is_ok_and(|f| f.len() == size_bytes);
                if !is_there || !digests.insert(digest) {
                    continue;
                }
                let kept = self.blobs.entry(digest).or_insert((size_bytes, 0));
                kept.1 += 1;
                if kept.1 == 1 {
                    self.bytes += size_bytes;
                }
            }
            self.frames += frames.len();
            found.push(Journal {
                path,
                origin,
                file: None,
                buffer: Vec::new(),
                written: None,
                frames: frames.len(),
                digests,
            });
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let numbered = found.into_iter().enumerate();
        self.journals.extend(numbered.map(|(n, journal)| (JournalId::Found(n), journal)));
        if !knows_all {
            return Ok(());
        }
        for entry in fs::read_dir(self.folder.join(BLOBS))? {
            let path = entry?.path();
            let is_part = path.extension().is_some_and(|extension| extension == PART);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_nobodys = |digest: Digest| !self.blobs.contains_key(&digest);
            if is_part || name.parse().is_ok_and(is_nobodys) {
                remove(&path);
            }
        }
        Ok(())
    }

    fn write_down(
        &mut self,
        journal: JournalId,
        origin: &Origin,
        finished: &SliceFinished,
        blobs: &[Blob],
    ) {
        let Self { folder, incarnation, journals, blobs: kept, frames, .. } = self;
        let journal = journals.entry(journal).or_insert_with(|| {
            // Batches of different stores may have the same number.
            let binding = match journal {
                JournalId::Of(batch) => batch.binding,
                JournalId::Found(_) => 0,
            };
            let name = format!("{:020}-{incarnation}-{binding}.{JOURNAL}", origin.batch_id);
            Journal::new(folder.join(name), origin.clone())
        });
        for blob in blobs {
            if let Some((_, journals)) = kept.get_mut(&blob.digest)
                && journal.digests.insert(blob.digest)
            {
                *journals += 1;
            }
        }
        *frames += 1;
        journal.add(finished);
    }

    /// One journal less names a blob.
    pub(super) fn release(&mut self, digest: Digest) {
        let Some((size_bytes, journals)) = self.blobs.get_mut(&digest) else { return };
        *journals = journals.saturating_sub(1);
        if *journals == 0 {
            self.bytes -= *size_bytes;
            self.blobs.remove(&digest);
            let path = self.place(digest);
            if let Err(error) = fs::remove_file(&path) {
                warn!(path = %path.display(), %error, "cannot delete what is not needed any more");
            }
        }
    }
}

impl Journal {
    fn new(path: PathBuf, origin: Origin) -> Self {
        let mut buffer = Vec::new();
        journal::append(&mut buffer, &origin);
        Self { path, origin, file: None, buffer, written: None, frames: 0, digests: HashSet::new() }
    }

    fn add(&mut self, finished: &SliceFinished) {
        self.frames += 1;
        journal::append(&mut self.buffer, finished);
        if self.written.is_none_or(|written| written.elapsed() >= WRITE_INTERVAL) {
            self.write();
        }
    }

    /// Writes what is not written yet. What cannot be is lost with this process: a disk that is full heals.
    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        self.written = Some(Instant::now());
        let path = &self.path;
        let mut write = || {
            let (file, good) = match &mut self.file {
                Some(open) => open,
                None => {
                    let file = File::options().create(true).append(true).open(path)?;
                    let good = file.metadata()?.len();
                    self.file.insert((file, good))
                }
            };
            if let Err(error) = file.write_all(&self.buffer) {
                // Nothing could be read after half an entry.
                file.set_len(*good)?;
                return Err(error);
            }
            *good += self.buffer.len() as u64;
            Ok(())
        };
        match write() {
            Ok(()) => self.buffer.clear(),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot write down what is finished");
                // Without its origin no entry can be read.
                let keep = self.file.as_ref().is_none_or(|(_, good)| *good == 0);
                self.buffer.clear();
                if keep {
                    journal::append(&mut self.buffer, &self.origin);
                }
            }
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        left_alone(path, &error.to_string());
    }
}

fn left_alone(path: &Path, reason: &str) {
    warn!(path = %path.display(), reason, "leaving alone what does not belong in the outbox");
}

/// The blobs that a frame consists of, with their sizes in bytes.
pub(crate) fn blobs_of(finished: &SliceFinished) -> impl Iterator<Item = (Digest, u64)> {
    let outputs = finished.outputs.iter().map(|output| (&output.digest, output.size_bytes));
    let preview = finished.preview.iter().map(|preview| (&preview.digest, preview.size_bytes));
    outputs.chain(preview).filter_map(|(digest, bytes)| Some((digest.parse().ok()?, bytes)))
}

/// The file appears only when all of it is there.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension(PART);
    let written = fs::write(&part, content).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
