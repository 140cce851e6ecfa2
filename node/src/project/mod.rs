//! Lays a project out on disk from blobs.
//!
//! `blobs/ab/abcd…` holds files by their digest, `layouts/<key>/…` projects whose files are links to them, and
//! `pieces/…` chunks on their way into a large file. A file and a layout appear under their names only when they
//! are complete, so whatever has a name can be used.

mod assembly;
mod cache;
mod index;
mod layout;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::SystemTime,
};

use framecrew_blobs::{BlobClient, Chunk, Digest, FileDigest, ProjectPath, TransferError};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::OwnedMutexGuard, task};

pub(crate) use self::layout::{LAYOUTS, Layout};
use self::{
    assembly::Assembly,
    cache::{BLOBS, bytes_of_blobs, entries, evict, lists},
    index::{Found, Index},
    layout::{Used, link_all},
};
use crate::{failure::FailureReason, platform};

/// Bytes that the projects of a node take unless it is told otherwise: a few large ones, and small beside the disks
/// of machines that render.
pub(crate) const CACHE_BYTES: u64 = 20 << 30;

/// Small files that are downloaded at a time. Each waits for a round trip and for the disk; the disk makes many
/// durable in one go.
const DOWNLOADS_MAX: usize = 32;

/// Chunks of a large file that are downloaded ahead of the one that is to be appended.
const CHUNKS_AHEAD: usize = 4;

/// Folder of chunks on their way into a file.
const PIECES: &str = "pieces";

/// The files of a project.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) blend: ProjectPath,
    pub(crate) files: BTreeMap<ProjectPath, FileDigest>,
}

impl Project {
    /// Names the layout: equal for projects with the same files in the same places.
    fn key(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (path, content) in &self.files {
            // Lengths are fixed or end in a byte that no path holds.
            hasher.update(path.as_str().as_bytes());
            hasher.update(&[0]);
            hasher.update(content.digest.as_bytes());
        }
        hasher.finalize().into()
    }

    /// What is in its files, each content once.
    fn contents(&self) -> BTreeMap<Digest, &FileDigest> {
        self.files.values().map(|content| (content.digest, content)).collect()
    }
}

/// Why a project could not be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("a file of the project did not arrive: {0}")]
    Transfer(#[from] TransferError),
    #[error(
        "the project has {project_bytes} bytes, more than the {limit_bytes} that this node keeps; start nodes with \
         a larger --cache-bytes, or leave out what the frames do not show"
    )]
    TooLarge { project_bytes: u64, limit_bytes: u64 },
    #[error(
        "the node's disk is too full for the project: {} has {free_bytes} bytes left, {needed_bytes} are \
         missing; make room there",
        path.display()
    )]
    DiskFull { path: PathBuf, free_bytes: u64, needed_bytes: u64 },
    #[error(
        "the chunks of {path} are not that file; submit the job again, from the original files"
    )]
    Chunks { path: String },
    #[error("the project cannot be written to {}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

impl LayoutError {
    /// Whether any other node, or a later try, may have more luck.
    pub(crate) fn reason(&self) -> FailureReason {
        match self {
            Self::TooLarge { .. } | Self::Chunks { .. } => FailureReason::Permanent,
            Self::Transfer(_) | Self::DiskFull { .. } | Self::Disk { .. } => {
                FailureReason::Infrastructure
            }
        }
    }
}

/// The projects of a node.
#[derive(Debug)]
pub(crate) struct Projects {
    folder: PathBuf,
    blobs: BlobClient,
    bytes_max: u64,
    /// Layouts in use, by key.
    used: Arc<Mutex<Used>>,
    /// One layout is made at a time: two slots with the same new project share one download.
    making: Arc<tokio::sync::Mutex<()>>,
    /// Chunks of cached files; read from the disk when the first large file comes.
    index: Arc<Mutex<Option<Index>>>,
}

impl Projects {
    /// Keeps projects under `folder`, which take `bytes_max` bytes at most.
    pub(crate) fn new(folder: PathBuf, blobs: BlobClient, bytes_max: u64) -> Self {
        Self {
            folder,
            blobs,
            bytes_max,
            used: Arc::default(),
            making: Arc::default(),
            index: Arc::default(),
        }
    }

    /// Lays `project` out, downloading what is missing. Dropping the future leaves nothing but complete blobs
    /// and resumable parts.
    pub(crate) async fn lay_out(&self, project: &Project) -> Result<Arc<Layout>, LayoutError> {
        let key = project.key();
        if let Some(layout) = self.existing(key) {
            return Ok(layout);
        }
        let making = self.making.clone().lock_owned().await;
        if let Some(layout) = self.existing(key) {
            return Ok(layout);
        }
        let making = self.make_room(project, making).await?;
        let (small, large): (Vec<_>, Vec<_>) =
            project.contents().into_values().partition(|content| content.chunks.is_empty());
        stream::iter(small.into_iter().map(Ok))
            .try_for_each_concurrent(DOWNLOADS_MAX, |content| self.fetch(content))
            .await?;
        // One after the other: they may have chunks in common.
        for content in large {
            if !self.assemble(content).await? {
                let is_it = |file: &(&ProjectPath, &FileDigest)| file.1.digest == content.digest;
                let path = project.files.iter().find(is_it).map(|file| file.0.to_string());
                return Err(LayoutError::Chunks { path: path.unwrap_or_default() });
            }
        }
        let files: Vec<_> = project
            .files
            .iter()
            .map(|(path, content)| (path.clone(), self.blob_path(content.digest)))
            .collect();
        let root = self.layout_path(key);
        let layouts = self.folder.join(LAYOUTS);
        let at = layouts.clone();
        blocking(making, move || link_all(&files, &layouts, &root))
            .await
            .map_err(|source| LayoutError::Disk { path: at, source })?;
        self.existing(key).ok_or_else(|| LayoutError::Disk {
            path: self.layout_path(key),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    fn existing(&self, key: Digest) -> Option<Arc<Layout>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, layout| layout.strong_count() > 0);
        if let Some(layout) = used.get(&key).and_then(Weak::upgrade) {
            return Some(layout);
        }
        let root = self.layout_path(key);
        // The folder's time is when it was last used.
        let folder = fs::File::open(&root).ok()?;
        let _ = folder.set_modified(SystemTime::now());
        let layout = Arc::new(Layout { root });
        used.insert(key, Arc::downgrade(&layout));
        Some(layout)
    }

    /// Downloads a file that is one blob, unless it is there.
    async fn fetch(&self, content: &FileDigest) -> Result<(), LayoutError> {
        let path = self.blob_path(content.digest);
        if holds(&path, content.size_bytes) {
            return Ok(());
        }
        make_folder_of(&path)?;
        self.blobs.download_file(content.digest, content.size_bytes, &path, |_| ()).await?;
        make_readonly(&path);
        Ok(())
    }

    /// Puts a file together from its chunks, unless it is there: from what an earlier try left, from other
    /// files of the cache, and from the orchestrator. False: they are not that file.
    async fn assemble(&self, content: &FileDigest) -> Result<bool, LayoutError> {
        let to = self.blob_path(content.digest);
        if holds(&to, content.size_bytes) {
            return Ok(true);
        }
        make_folder_of(&to)?;
        let part = to.with_file_name(format!(".{}", content.digest));
        let disk = |source| LayoutError::Disk { path: part.clone(), source };
        let opened = {
            let (part, chunks) = (part.clone(), content.chunks.clone());
            on_disk(move || Assembly::open(part, &chunks)).await
        };
        let (mut assembly, whole) = opened.map_err(disk)?;
        let sources = self.sources(content).await;
        let mut coming = stream::iter(sources.into_iter().skip(whole))
            .map(|(chunk, place)| async move {
                if let Place::Download = place {
                    self.piece(chunk).await?;
                }
                Ok::<_, LayoutError>((chunk, place))
            })
            .buffered(CHUNKS_AHEAD);
        let mut failed = None;
        while let Some(next) = coming.next().await {
            let appended = match next {
                Ok((chunk, place)) => self.append(assembly, chunk, place).await,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            assembly = appended?;
        }
        drop(coming);
        if let Some(error) = failed {
            // What is there so far shortens the next try, unless there is no room for it.
            if is_full(&error) {
                assembly.discard();
            }
            return Err(error);
        }
        let (digest, list) = (content.digest, content.clone());
        let finished = on_disk(move || {
            let is_it = assembly.finish(digest, &to)?;
            if is_it {
                make_readonly(&to);
                // Without a list its chunks are fetched again for another version of it.
                let _ = index::write_list(&to, &list);
            }
            Ok(is_it)
        });
        let is_it = finished.await.map_err(disk)?;
        if is_it {
            self.with_index(|index| index.add(content.digest, &content.chunks));
        }
        Ok(is_it)
    }

    /// Where each chunk of a file comes from.
    async fn sources(&self, content: &FileDigest) -> Vec<(Chunk, Place)> {
        let (blobs, index) = (self.folder.join(BLOBS), self.index.clone());
        let read = move || {
            let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
            if index.is_none() {
                *index = Some(Index::read(lists(&blobs)));
            }
            Ok(())
        };
        // Without an index everything is fetched.
        let _ = on_disk(read).await;
        let mut own: HashMap<Digest, u64> = HashMap::new();
        let mut offset: u64 = 0;
        let place = |chunk: &Chunk| {
            let first = *own.entry(chunk.digest).or_insert(offset);
            let place = if first < offset {
                Place::Same { offset: first }
            } else {
                let found = self.with_index(|index| index.find(chunk.digest));
                found.flatten().map_or(Place::Download, Place::Cached)
            };
            offset = offset.saturating_add(chunk.size_bytes);
            (*chunk, place)
        };
        content.chunks.iter().map(place).collect()
    }

    fn with_index<T>(&self, f: impl FnOnce(&mut Index) -> T) -> Option<T> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(f)
    }

    /// Appends a chunk from where it is; fetches it when it is not there any more.
    async fn append(
        &self,
        assembly: Assembly,
        chunk: Chunk,
        place: Place,
    ) -> Result<Assembly, LayoutError> {
        let piece = self.piece_path(chunk.digest);
        let (from, offset) = match place {
            Place::Download => (piece.clone(), 0),
            Place::Cached(Found { file, offset }) => (self.blob_path(file), offset),
            Place::Same { offset } => (assembly.path().to_owned(), offset),
        };
        let (mut assembly, is_there) = append(assembly, from, offset, chunk).await?;
        if !is_there {
            self.piece(chunk).await?;
            let is_right;
            (assembly, is_right) = append(assembly, piece.clone(), 0, chunk).await?;
            if !is_right {
                return Err(TransferError::Damaged { digest: chunk.digest }.into());
            }
        }
        // Kept where it cannot be removed, until the next eviction.
        let _ = fs::remove_file(&piece);
        Ok(assembly)
    }

    /// Downloads a chunk, unless an earlier try has.
    async fn piece(&self, chunk: Chunk) -> Result<(), LayoutError> {
        let path = self.piece_path(chunk.digest);
        if holds(&path, chunk.size_bytes) {
            return Ok(());
        }
        make_folder_of(&path)?;
        Ok(self.blobs.download_file(chunk.digest, chunk.size_bytes, &path, |_| ()).await?)
    }

    /// Removes the layouts that were not used for longest, and files that no layout uses, until what is missing
    /// of `project` fits.
    async fn make_room(
        &self,
        project: &Project,
        making: OwnedMutexGuard<()>,
    ) -> Result<OwnedMutexGuard<()>, LayoutError> {
        let contents = project.contents();
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
        let project_bytes = sum(&mut contents.values().map(|content| content.size_bytes));
        if project_bytes > self.bytes_max {
            return Err(LayoutError::TooLarge { project_bytes, limit_bytes: self.bytes_max });
        }
        let files: Vec<_> = contents
            .values()
            .map(|content| (self.blob_path(content.digest), content.size_bytes))
            .collect();
        let pieces = contents.values().flat_map(|content| &content.chunks);
        let pieces: HashSet<_> = pieces.map(|chunk| self.piece_path(chunk.digest)).collect();
        let (folder, used, bytes_max) = (self.folder.clone(), self.used.clone(), self.bytes_max);
        let work = move || {
            let missing = files.iter().filter(|(path, size_bytes)| !holds(path, *size_bytes));
            let missing_bytes: u64 =
                missing.fold(0, |sum: u64, (_, size_bytes)| sum.saturating_add(*size_bytes));
            for piece in entries(&folder.join(PIECES))? {
                if !pieces.contains(&piece.path()) {
                    fs::remove_file(piece.path())?;
                }
            }
            let wanted = files.into_iter().map(|(path, _)| path).collect();
            // What the disk has room for may be less than what is allowed.
            let free_bytes = platform::free_bytes(&folder).unwrap_or(u64::MAX);
            let may_take = bytes_max.min(bytes_of_blobs(&folder)?.saturating_add(free_bytes));
            // A project that never fits is refused below; others keep what they have.
            if let Some(room) = may_take.checked_sub(missing_bytes) {
                evict(&folder, &used, room, &wanted)?;
            }
            Ok(missing_bytes)
        };
        let (making, needed_bytes) = blocking(making, work)
            .await
            .map_err(|source| LayoutError::Disk { path: self.folder.clone(), source })?;
        match platform::free_bytes(&self.folder) {
            Some(free_bytes) if free_bytes < needed_bytes => {
                Err(LayoutError::DiskFull { path: self.folder.clone(), free_bytes, needed_bytes })
            }
            _ => Ok(making),
        }
    }

    fn layout_path(&self, key: Digest) -> PathBuf {
        self.folder.join(LAYOUTS).join(key.to_string())
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join(BLOBS).join(&name[..2]).join(name)
    }

    fn piece_path(&self, chunk: Digest) -> PathBuf {
        self.folder.join(PIECES).join(chunk.to_string())
    }
}

/// Where a chunk of a file comes from.
#[derive(Debug, Clone, Copy)]
enum Place {
    Download,
    Cached(Found),
    /// From further up in the same file.
    Same {
        offset: u64,
    },
}

async fn append(
    mut assembly: Assembly,
    from: PathBuf,
    offset: u64,
    chunk: Chunk,
) -> Result<(Assembly, bool), LayoutError> {
    let path = assembly.path().to_owned();
    let work = move || match assembly.append(&from, offset, chunk) {
        Ok(is_there) => Ok((assembly, is_there)),
        Err(error) => {
            if error.kind() == io::ErrorKind::StorageFull {
                assembly.discard();
            }
            Err(error)
        }
    };
    on_disk(work).await.map_err(|source| LayoutError::Disk { path, source })
}

fn is_full(error: &LayoutError) -> bool {
    match error {
        LayoutError::Transfer(TransferError::File { source, .. })
        | LayoutError::Disk { source, .. } => source.kind() == io::ErrorKind::StorageFull,
        _ => false,
    }
}

/// Whether a file is there. Its size tells: it got its name when it was whole.
fn holds(path: &Path, size_bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() == size_bytes)
}

fn make_folder_of(path: &Path) -> Result<(), LayoutError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder)
        .map_err(|source| LayoutError::Disk { path: folder.to_owned(), source })
}

/// Scenes can write beside the .blend; what they must not do is to change a blob through its link.
fn make_readonly(path: &Path) {
    if let Ok(file) = fs::metadata(path) {
        let mut permissions = file.permissions();
        permissions.set_readonly(true);
        let _ = fs::set_permissions(path, permissions);
    }
}

/// Works on the disk away from the async threads. The guard goes with the work, which goes on when nobody waits
/// for it any more, and comes back after it.
async fn blocking<T: Send + 'static>(
    making: OwnedMutexGuard<()>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<(OwnedMutexGuard<()>, T)> {
    on_disk(move || work().map(|done| (making, done))).await
}

/// Works on the disk away from the async threads.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

#[cfg(test)]
mod tests;
