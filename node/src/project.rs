//! Lays a project out on disk from blobs.
//!
//! `blobs/ab/abcd…` holds content by its digest, `layouts/<key>/…` projects whose files are links to it. A
//! layout appears under its name only when it is complete, so whatever has a name can be used.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::SystemTime,
};

use framecrew_blobs::{BlobClient, Digest, ProjectPath, TransferError};
use futures::{TryStreamExt as _, stream};
use tokio::{sync::OwnedMutexGuard, task};

use crate::platform;

/// Bytes of blobs that are kept after their project was last used: a few large projects, and small beside the
/// disks of machines that render.
const CACHE_BYTES_MAX: u64 = 20 << 30;

/// Blobs that are downloaded at a time: enough that many small files do not wait for one another's round trips.
const DOWNLOADS_MAX: usize = 8;

/// Folder of the layouts, below a node's own.
pub(crate) const LAYOUTS: &str = "layouts";

/// Extension of a layout that is being removed.
const EVICTED: &str = "evicted";

/// The files of a project.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) blend: ProjectPath,
    pub(crate) files: BTreeMap<ProjectPath, Blob>,
}

/// Content of a project's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

impl Project {
    /// Names the layout: equal for projects with the same files in the same places.
    fn key(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (path, blob) in &self.files {
            // Lengths are fixed or end in a byte that no path holds.
            hasher.update(path.as_str().as_bytes());
            hasher.update(&[0]);
            hasher.update(blob.digest.as_bytes());
        }
        hasher.finalize().into()
    }
}

/// A project on disk. Not evicted while this lives.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Where a file of the project is.
    pub(crate) fn path(&self, file: &ProjectPath) -> PathBuf {
        file.under(&self.root)
    }
}

/// Why a project could not be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("a file of the project did not arrive: {0}")]
    Transfer(#[from] TransferError),
    #[error("the project cannot be written to {}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

type Used = HashMap<Digest, Weak<Layout>>;

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
}

impl Projects {
    /// Keeps projects under `folder`.
    pub(crate) fn new(folder: PathBuf, blobs: BlobClient) -> Self {
        Self {
            folder,
            blobs,
            bytes_max: CACHE_BYTES_MAX,
            used: Arc::default(),
            making: Arc::default(),
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
        // Files with the same content are one blob.
        let blobs: BTreeMap<_, _> =
            project.files.values().map(|blob| (blob.digest, *blob)).collect();
        stream::iter(blobs.into_values().map(Ok))
            .try_for_each_concurrent(DOWNLOADS_MAX, |blob| self.fetch(blob))
            .await?;
        let files: Vec<_> = project
            .files
            .iter()
            .map(|(path, blob)| (path.clone(), self.blob_path(blob.digest)))
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

    async fn fetch(&self, blob: Blob) -> Result<(), LayoutError> {
        let path = self.blob_path(blob.digest);
        if fs::metadata(&path).is_ok_and(|file| file.len() == blob.size_bytes) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)
            .map_err(|source| LayoutError::Disk { path: folder.to_owned(), source })?;
        self.blobs.download_file(blob.digest, blob.size_bytes, &path, |_| ()).await?;
        // Scenes can write beside the .blend; what they must not do is to change a blob through its link.
        if let Ok(file) = fs::metadata(&path) {
            let mut permissions = file.permissions();
            permissions.set_readonly(true);
            let _ = fs::set_permissions(&path, permissions);
        }
        Ok(())
    }

    /// Removes the layouts that were not used for longest, and blobs that no layout uses, until `project` fits.
    async fn make_room(
        &self,
        project: &Project,
        making: OwnedMutexGuard<()>,
    ) -> Result<OwnedMutexGuard<()>, LayoutError> {
        let incoming = project.files.values().map(|blob| blob.size_bytes).sum();
        let (folder, used) = (self.folder.clone(), self.used.clone());
        let room = self.bytes_max.saturating_sub(incoming);
        blocking(making, move || evict(&folder, &used, room))
            .await
            .map_err(|source| LayoutError::Disk { path: self.folder.clone(), source })
    }

    fn layout_path(&self, key: Digest) -> PathBuf {
        self.folder.join(LAYOUTS).join(key.to_string())
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join("blobs").join(&name[..2]).join(name)
    }
}

/// Works on the disk away from the async threads. The guard goes with the work, which goes on when nobody waits
/// for it any more, and comes back after it.
async fn blocking(
    making: OwnedMutexGuard<()>,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<OwnedMutexGuard<()>> {
    let guarded = move || work().map(|()| making);
    task::spawn_blocking(guarded).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn link_all(files: &[(ProjectPath, PathBuf)], layouts: &Path, root: &Path) -> io::Result<()> {
    fs::create_dir_all(layouts)?;
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(layouts)?;
    for (path, blob) in files {
        let to = path.under(unfinished.path());
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        platform::link_or_copy(blob, &to)?;
    }
    match fs::rename(unfinished.path(), root) {
        // What has the name is whole, whoever made it.
        Err(_) if root.is_dir() => Ok(()),
        renamed => renamed,
    }
}

/// Removes layouts, the longest unused first, and then blobs that no layout links to, until the blobs take
/// `room` bytes at most or only what is in use is left.
fn evict(folder: &Path, used: &Mutex<Used>, room: u64) -> io::Result<()> {
    let mut layouts = Vec::new();
    for layout in entries(&folder.join(LAYOUTS))? {
        layouts.push((layout.metadata()?.modified()?, layout.path()));
    }
    layouts.sort();
    let mut oldest = layouts.into_iter();
    while bytes_of_blobs(folder)? > room {
        let Some((_, layout)) = oldest.next() else {
            return Ok(());
        };
        if !take_name(&layout, used)? {
            continue;
        }
        fs::remove_dir_all(layout.with_extension(EVICTED))?;
        for blob in blobs(folder)? {
            // Where links were not possible the layouts have copies, and every blob may go.
            if platform::names_of_file(&blob.metadata()?) == 1 {
                fs::remove_file(blob.path())?;
            }
        }
    }
    Ok(())
}

/// Renames a layout, so that nobody begins to use it while it is removed. False: it is in use.
fn take_name(layout: &Path, used: &Mutex<Used>) -> io::Result<bool> {
    let used = used.lock().unwrap_or_else(PoisonError::into_inner);
    let key = layout.file_name().and_then(|name| name.to_str()?.parse().ok());
    let layout_used = key.and_then(|key: Digest| used.get(&key));
    if layout_used.is_some_and(|layout| layout.strong_count() > 0) {
        return Ok(false);
    }
    fs::rename(layout, layout.with_extension(EVICTED)).map(|()| true)
}

fn bytes_of_blobs(folder: &Path) -> io::Result<u64> {
    blobs(folder)?.iter().map(|blob| Ok(blob.metadata()?.len())).sum()
}

fn blobs(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let mut all = Vec::new();
    for prefix in entries(&folder.join("blobs"))? {
        all.extend(entries(&prefix.path())?);
    }
    Ok(all)
}

/// What is in a folder; nothing when it does not exist.
fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn store(folder: &Path, content: &[u8]) -> PathBuf {
        let name = Digest::of(content).to_string();
        let blob = folder.join("blobs").join(&name[..2]).join(&name);
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, content).unwrap();
        blob
    }

    fn layout(folder: &Path, key: &str, blobs: &[&PathBuf]) -> PathBuf {
        let root = folder.join(LAYOUTS).join(key);
        let files: Vec<_> = blobs
            .iter()
            .enumerate()
            .map(|(n, blob)| (format!("sub/{n}").parse().unwrap(), (*blob).clone()))
            .collect();
        link_all(&files, &folder.join(LAYOUTS), &root).unwrap();
        root
    }

    #[test]
    fn a_layout_that_is_there_already_is_as_good_as_one_just_made() {
        let folder = tempfile::tempdir().unwrap();
        let blob = store(folder.path(), &[1; 10]);
        let first = layout(folder.path(), "same", &[&blob]);
        assert_eq!(layout(folder.path(), "same", &[&blob]), first);
        assert!(first.join("sub/0").exists());
        assert_eq!(entries(&folder.path().join(LAYOUTS)).unwrap().len(), 1, "no leftovers");
    }

    #[tokio::test]
    async fn work_on_the_disk_keeps_its_guard_when_nobody_waits_for_it() {
        let making = Arc::new(tokio::sync::Mutex::default());
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel();
        let work = blocking(making.clone().lock_owned().await, move || {
            begun.send(()).unwrap();
            may_go_on.recv().map_err(io::Error::other)
        });
        let mut work = Box::pin(work);
        tokio::select! {
            _ = &mut work => panic!("nobody let it go on"),
            begun = has_begun => begun.unwrap(),
        }
        drop(work);
        assert!(making.try_lock().is_err());
        go_on.send(()).unwrap();
        let _ = making.lock().await;
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (shared, old, new) =
            (store(folder, &[1; 1_000]), store(folder, &[2; 1_000]), store(folder, &[3; 1_000]));
        let first = layout(folder, "old", &[&shared, &old]);
        let key = Digest::of(b"new");
        let second = layout(folder, &key.to_string(), &[&shared, &new]);
        let used = Mutex::new(Used::new());
        let long_ago = SystemTime::UNIX_EPOCH;
        fs::File::open(&first).unwrap().set_modified(long_ago).unwrap();

        evict(folder, &used, 3_000).unwrap();
        assert!(first.exists() && second.exists(), "all of it fits");
        evict(folder, &used, 2_000).unwrap();
        assert!(!first.exists() && !old.exists());
        assert!(second.exists() && shared.exists() && new.exists());
        let in_use = Arc::new(Layout { root: second.clone() });
        used.lock().unwrap().insert(key, Arc::downgrade(&in_use));
        evict(folder, &used, 0).unwrap();
        assert!(second.exists() && shared.exists() && new.exists());
        drop(in_use);
        evict(folder, &used, 0).unwrap();
        assert!(!second.exists() && !shared.exists() && !new.exists());
    }
}
