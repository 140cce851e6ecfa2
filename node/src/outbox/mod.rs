//! Finished frames, kept on disk until nobody can ask for them any more, and on their way into the blob store.
//!
//! `outbox/<batch>-<life>.journal` lists what a batch finished, `outbox/blobs/<digest>` holds what that produced,
//! each content once. A frame is written down before its blobs travel and before anyone hears of it, so that
//! neither a broken link nor a killed process costs it. Nothing is synced: after a power cut frames are drawn again.

mod journal;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use framecrew_blobs::{BlobClient, Digest, Source, TransferError};
use framecrew_proto::v1::{Slice, SliceFinished};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{self, Instant},
};
use tonic::Code;
use tracing::{info, warn};

pub(crate) use self::journal::Origin;
use crate::{
    membership::jittered,
    output::{Blob, Content},
};

/// Bytes that kept frames take unless the node is told otherwise: some hundred large frames, and small beside the
/// disks of machines that render.
pub(crate) const OUTBOX_BYTES: u64 = 8 << 30;

/// Frames that are kept: as many as the batches that a node keeps have slices.
const FRAMES_MAX: usize = 256 * 1_024;

/// Share of either bound, in percent, from which on the node takes no more work.
const FULL_PERCENT: u64 = 80;

/// How often a batch's journal is written to, at most. What a process that is killed had not written yet took no
/// longer than this to draw; without it, frames that take no time would wait for the disk.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);

/// Pause after the first failed upload; it doubles up to `UPLOAD_PAUSE_MAX`.
const UPLOAD_PAUSE: Duration = Duration::from_millis(200);
const UPLOAD_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a store may have trouble of its own with a frame before the batch goes on without it: it may have that for
/// ever. The frame is handed in when the store is mended, unless it was drawn again by then.
const BROKEN_FOR: Duration = Duration::from_secs(60);

/// How long an upload is remembered: nothing removes a blob from the store so soon after it was put there.
const STORED_FOR: Duration = Duration::from_secs(60);

/// Uploads that are remembered, about 100 bytes each.
const STORED_MAX: usize = 4_096;

/// Folder of the kept blobs, in the outbox.
const BLOBS: &str = "blobs";

/// Extension of journals.
const JOURNAL: &str = "journal";
/// Extension of blobs that are not all there yet.
const PART: &str = "part";

/// Finished frames of this node.
#[derive(Debug)]
pub(crate) struct Outbox {
    shelf: Arc<Mutex<Shelf>>,
    client: BlobClient,
    /// What the store is known to have, and since when.
    stored: Mutex<HashMap<Digest, Instant>>,
    /// Whether the last upload failed: an outage is told once.
    is_away: AtomicBool,
    /// Journals of this life have it in their names: batch ids of another store may be the same.
    life: u64,
    bytes_max: u64,
    orphaned: Notify,
}

/// What is kept.
#[derive(Debug)]
struct Shelf {
    folder: PathBuf,
    /// Of batches that the node knows.
    journals: HashMap<u64, Journal>,
    /// Of batches that nobody asks for, oldest first.
    orphans: VecDeque<Journal>,
    /// Each content with its size in bytes and the number of journals that name it.
    blobs: HashMap<Digest, (u64, usize)>,
    bytes: u64,
    frames: usize,
}

/// Where a batch's frames are written down.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    origin: Origin,
    /// Open while the batch goes on, with the length that is known to be good.
    file: Option<(File, u64)>,
    /// Not written yet.
    buffer: Vec<u8>,
    written: Option<Instant>,
    frames: usize,
    digests: HashSet<Digest>,
    /// Slices that its batch did not tell of.
    untold: HashSet<Slice>,
}

/// Why a frame was not kept. It can be stored all the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("the outbox is full")]
    Full,
    #[error("the outbox cannot be written to: {0}")]
    Disk(#[from] io::Error),
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
    /// Opens the outbox in `folder`. What an earlier life left in it is an orphan now; what no journal names goes.
    pub(crate) fn open(
        folder: PathBuf,
        client: BlobClient,
        life: u64,
        bytes_max: u64,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder.join(BLOBS))?;
        let mut shelf = Shelf {
            folder,
            journals: HashMap::new(),
            orphans: VecDeque::new(),
            blobs: HashMap::new(),
            bytes: 0,
            frames: 0,
        };
        shelf.find()?;
        if shelf.frames > 0 {
            info!(frames = shelf.frames, bytes = shelf.bytes, "found frames of an earlier life");
        }
        let orphaned = Notify::new();
        if !shelf.orphans.is_empty() {
            orphaned.notify_one();
        }
        Ok(Self {
            shelf: Arc::new(Mutex::new(shelf)),
            client,
            stored: Mutex::default(),
            is_away: AtomicBool::new(false),
            life,
            bytes_max,
            orphaned,
        })
    }

    /// Writes a finished frame down and takes its files over: afterwards `blobs` name them where they are now.
    pub(crate) fn keep(
        &self,
        origin: &Origin,
        finished: &SliceFinished,
        blobs: &mut [Blob],
    ) -> Result<(), NotKept> {
        let mut shelf = self.shelf();
        let mut new = HashMap::new();
        for blob in blobs.iter().filter(|blob| !shelf.blobs.contains_key(&blob.digest)) {
            new.insert(blob.digest, blob.size_bytes);
        }
        let bytes = shelf.bytes.saturating_add(new.values().sum());
        if bytes > self.bytes_max || shelf.frames >= FRAMES_MAX {
            return Err(NotKept::Full);
        }
        let mut failed = None;
        for blob in blobs.iter_mut() {
            if new.remove(&blob.digest).is_some() {
                let place = shelf.place(blob.digest);
                let placed = match &blob.content {
                    Content::File(path) => fs::rename(path, &place),
                    Content::Memory(bytes) => write_whole(&place, bytes),
                };
                if let Err(error) = placed {
                    failed = Some(error);
                    break;
                }
                shelf.blobs.insert(blob.digest, (blob.size_bytes, 0));
                shelf.bytes += blob.size_bytes;
            }
            // What is in memory need not be read again.
            if let Content::File(path) = &mut blob.content {
                *path = shelf.place(blob.digest);
            }
        }
        // Also with a part of its blobs: they go when its batch is settled.
        shelf.write_down(origin, finished, blobs, self.life);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Its batch has told of a frame.
    pub(crate) fn told(&self, batch_id: u64, slice: &Slice) {
        if let Some(journal) = self.shelf().journals.get_mut(&batch_id) {
            journal.untold.remove(slice);
        }
    }

    /// A batch finishes nothing more.
    pub(crate) fn close(&self, batch_id: u64) {
        if let Some(journal) = self.shelf().journals.get_mut(&batch_id) {
            journal.write();
            journal.file = None;
        }
    }

    /// Every event of a batch that has ended is durable at the orchestrator. What it did not tell of is offered.
    pub(crate) fn settle(&self, batch_id: u64) {
        let mut shelf = self.shelf();
        match shelf.journals.remove(&batch_id) {
            Some(journal) if journal.untold.is_empty() => {
                drop(shelf);
                self.forget(journal);
            }
            Some(journal) => {
                shelf.orphans.push_back(journal);
                self.orphaned.notify_one();
            }
            None => {}
        }
    }

    /// Nobody will ask for a batch's frames any more: they are to be offered.
    pub(crate) fn abandon(&self, batch_id: u64) {
        let mut shelf = self.shelf();
        if let Some(mut journal) = shelf.journals.remove(&batch_id) {
            journal.write();
            journal.file = None;
            shelf.orphans.push_back(journal);
            self.orphaned.notify_one();
        }
    }

    /// Waits for a journal that nobody asks for and takes it out, the oldest first. It stays on disk.
    pub(crate) async fn orphan(&self) -> Journal {
        loop {
            let orphaned = self.orphaned.notified();
            if let Some(journal) = self.shelf().orphans.pop_front() {
                return journal;
            }
            orphaned.await;
        }
    }

    /// Puts a journal back, behind the others: it is offered again.
    pub(crate) fn put_back(&self, journal: Journal) {
        self.shelf().orphans.push_back(journal);
        self.orphaned.notify_one();
    }

    /// Deletes a journal, and the blobs that only it names.
    pub(crate) fn forget(&self, journal: Journal) {
        let Journal { path, frames, digests, file, .. } = journal;
        drop(file);
        // First: blobs that no journal names go with the next start at the latest.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %error, "cannot delete what is not needed any more");
        }
        self.shelf().frames -= frames;
        let shelf = self.shelf.clone();
        let release = move || {
            for digest in digests {
                let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
                shelf.release(digest);
            }
        };
        // A thousand files take the disk a while. Those of frames that take no time are one.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(release)),
            Err(_) => release(),
        }
    }

    /// Where the bytes of a kept blob are.
    pub(crate) fn place(&self, digest: Digest) -> PathBuf {
        self.shelf().place(digest)
    }

    pub(crate) fn kept(&self) -> Kept {
        let (frames, bytes) = {
            let shelf = self.shelf();
            (shelf.frames, shelf.bytes)
        };
        let share = |of: u64, max: u64| of.saturating_mul(100) >= max.saturating_mul(FULL_PERCENT);
        Kept {
            frames: u32::try_from(frames).unwrap_or(u32::MAX),
            bytes,
            bytes_max: self.bytes_max,
            is_nearly_full: share(bytes, self.bytes_max) || share(frames as u64, FRAMES_MAX as u64),
        }
    }

    /// Forgets what the store is known to have: it may be another one now.
    pub(crate) fn forget_stored(&self) {
        self.stored().clear();
    }

    /// Stores blobs, in one go; nothing is sent of those that were stored a moment ago. One try.
    pub(crate) async fn store(&self, blobs: &[Blob]) -> Result<(), TransferError> {
        let begun = Instant::now();
        let missing: Vec<_> =
            blobs.iter().filter(|blob| !self.is_stored(blob.digest, begun)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sent = self.client.upload_all(missing.iter().map(|blob| blob.source())).await;
        match &sent {
            Err(error) if is_the_stores(error) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    warn!(%error, "finished frames cannot be stored; keeping them and trying on");
                }
            }
            Err(_) => {}
            Ok(()) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    info!("finished frames can be stored again");
                }
                let mut stored = self.stored();
                if stored.len() + missing.len() > STORED_MAX {
                    stored.clear();
                }
                stored.extend(missing.iter().map(|blob| (blob.digest, begun)));
            }
        }
        sent
    }

    /// Stores blobs, for as long as trying on makes sense: whoever waits ends that with its lease.
    pub(crate) async fn store_at_last(&self, blobs: &[Blob]) -> Result<(), TransferError> {
        let mut pause = UPLOAD_PAUSE;
        let mut broken = None;
        loop {
            match self.store(blobs).await {
                // Others may fare better, and wait for these.
                Err(error)
                    if is_broken(&error)
                        && broken.get_or_insert_with(Instant::now).elapsed() >= BROKEN_FOR =>
                {
                    return Err(error);
                }
                Err(error) if is_the_stores(&error) => {}
                done => return done,
            }
            time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(UPLOAD_PAUSE_MAX);
        }
    }

    /// Stores kept blobs that the store says it lacks.
    pub(crate) async fn store_kept(&self, blobs: Vec<(Digest, u64)>) -> Result<(), TransferError> {
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        let missing: HashSet<_> = self.client.find_missing(&digests).await?.into_iter().collect();
        let files = blobs.into_iter().filter(|(digest, _)| missing.contains(digest));
        let files = files.map(|(digest, size_bytes)| {
            let path = self.place(digest);
            Source::File { path, digest, size_bytes }
        });
        let files: Vec<_> = files.collect();
        self.client.upload_all(files).await
    }

    fn is_stored(&self, digest: Digest, now: Instant) -> bool {
        let since = self.stored().get(&digest).copied();
        since.is_some_and(|since| now - since < STORED_FOR)
    }

    fn stored(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic under the lock leaves at most a blob too many.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn place(&self, digest: Digest) -> PathBuf {
        self.folder.join(BLOBS).join(digest.to_string())
    }

    /// Reads what is there. What is none of its own, or cannot be read, is left alone: it costs no node its start.
    /// Nothing tells the blobs of an unreadable journal from nobody's: then all are left to the next start.
    fn find(&mut self) -> io::Result<()> {
        let mut knows_all = true;
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
            self.orphans.push_back(Journal {
                path,
                origin,
                file: None,
                buffer: Vec::new(),
                written: None,
                frames: frames.len(),
                digests,
                untold: HashSet::new(),
            });
        }
        self.orphans.make_contiguous().sort_by(|a, b| a.path.cmp(&b.path));
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

    fn write_down(&mut self, origin: &Origin, finished: &SliceFinished, blobs: &[Blob], life: u64) {
        let Self { folder, journals, blobs: kept, frames, .. } = self;
        let journal = journals.entry(origin.batch_id).or_insert_with(|| {
            let path = folder.join(format!("{:020}-{life}.{JOURNAL}", origin.batch_id));
            Journal::new(path, origin.clone())
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
    fn release(&mut self, digest: Digest) {
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
        Self {
            path,
            origin,
            file: None,
            buffer,
            written: None,
            frames: 0,
            digests: HashSet::new(),
            untold: HashSet::new(),
        }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its frames, as far as they can be read. Blocks.
    pub(crate) fn frames(&self) -> io::Result<Vec<SliceFinished>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(journal::read(&bytes).map(|(_, frames)| frames).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn add(&mut self, finished: &SliceFinished) {
        self.frames += 1;
        self.untold.extend(finished.slice);
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

/// Whether waiting helps: the store is away, busy, or in trouble of its own, of which it says no more than that its log
/// tells it. Whoever runs it can mend that, and the frame is worth more than the time.
pub(crate) fn is_the_stores(error: &TransferError) -> bool {
    error.is_transient() || is_broken(error)
}

/// Whether the store is in trouble of its own, perhaps with these blobs alone.
pub(crate) fn is_broken(error: &TransferError) -> bool {
    error.status().is_some_and(|status| status.code() == Code::Internal)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use framecrew_proto::v1::Output;
    use tonic::transport::Endpoint;

    use super::*;

    fn open(folder: &Path, bytes_max: u64) -> Outbox {
        let nowhere = Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
        Outbox::open(folder.to_owned(), BlobClient::new(nowhere), 1, bytes_max).unwrap()
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
        outbox.keep(&origin, &finished, &mut [Blob { digest, size_bytes, content }])
    }

    fn tell(outbox: &Outbox, batch_id: u64, frame: i32) {
        outbox.told(batch_id, &Slice { frame, index: 0 });
    }

    fn files(folder: &Path) -> usize {
        let journals = fs::read_dir(folder).unwrap().count() - 1;
        journals + fs::read_dir(folder.join(BLOBS)).unwrap().count()
    }

    /// What was done on other threads is done.
    async fn done(outbox: &Outbox, bytes: u64) {
        while outbox.kept().bytes != bytes {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_content_is_kept_once_and_goes_with_the_last_batch_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path(), 1_000);
        for frame in 1..=9 {
            keep(&outbox, 1, frame, b"same").unwrap();
            tell(&outbox, 1, frame);
        }
        keep(&outbox, 2, 1, b"same").unwrap();
        tell(&outbox, 2, 1);
        let kept = outbox.kept();
        assert_eq!((kept.frames, kept.bytes), (10, 4));
        outbox.close(1);
        outbox.settle(1);
        assert_eq!(outbox.kept().frames, 1);
        let journals = || outbox.shelf().blobs.get(&Digest::of(b"same")).map(|(_, n)| *n);
        while journals() == Some(2) {
            tokio::task::yield_now().await;
        }
        assert_eq!(journals(), Some(1));
        assert_eq!(fs::read(outbox.place(Digest::of(b"same"))).unwrap(), b"same");
        outbox.settle(2);
        done(&outbox, 0).await;
        assert_eq!((outbox.kept().frames, files(folder.path())), (0, 0));
    }

    #[tokio::test]
    async fn a_frame_that_its_batch_did_not_tell_of_is_offered_though_the_batch_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path(), 1_000);
        keep(&outbox, 1, 1, b"one").unwrap();
        keep(&outbox, 1, 2, b"two").unwrap();
        tell(&outbox, 1, 1);
        outbox.close(1);
        outbox.settle(1);
        assert_eq!(outbox.kept().frames, 2);
        let journal = outbox.orphan().await;
        assert_eq!(journal.origin().batch_id, 1);
        assert_eq!(journal.frames().unwrap().len(), 2);
        outbox.forget(journal);
        done(&outbox, 0).await;
        assert_eq!(files(folder.path()), 0);
    }

    #[tokio::test]
    async fn the_next_life_finds_what_was_finished_and_clears_away_what_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 1_000);
        keep(&first, 1, 1, b"one").unwrap();
        keep(&first, 2, 1, b"two").unwrap();
        first.close(1);
        first.close(2);
        drop(first);
        let blobs = folder.path().join(BLOBS);
        fs::write(blobs.join("half.part"), "on its way").unwrap();
        fs::write(blobs.join(Digest::of(b"nobody's").to_string()), "nobody's").unwrap();
        fs::write(folder.path().join("3-1.journal"), "torn").unwrap();
        let second = open(folder.path(), 1_000);
        let kept = second.kept();
        assert_eq!((kept.frames, kept.bytes, files(folder.path())), (2, 6, 4));
        for batch in [1, 2] {
            let journal = second.orphan().await;
            assert_eq!(journal.origin().batch_id, batch);
            assert_eq!(journal.frames().unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn what_somebody_else_put_into_the_outbox_is_left_alone_and_costs_no_frame() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 1_000);
        keep(&first, 1, 1, b"one").unwrap();
        first.close(1);
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

    #[tokio::test]
    async fn a_full_outbox_keeps_nothing_more_and_says_so_before() {
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

    #[tokio::test]
    async fn a_file_is_taken_over_and_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(&folder.path().join("outbox"), 1_000);
        let drawn = folder.path().join("0001.png");
        fs::write(&drawn, "picture").unwrap();
        let digest = Digest::of(b"picture");
        let mut blobs = [Blob { digest, size_bytes: 7, content: Content::File(drawn.clone()) }];
        outbox.keep(&Origin::default(), &SliceFinished::default(), &mut blobs).unwrap();
        assert!(!drawn.exists());
        let Content::File(path) = &blobs[0].content else { panic!("{blobs:?}") };
        assert_eq!(fs::read(path).unwrap(), b"picture");
    }
}
