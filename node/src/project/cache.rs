//! The cache of files, and what leaves it first when it is full. Blocks.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use framecrew_blobs::Digest;

use super::{
    index::LIST,
    layout::{LAYOUTS, Used},
};
use crate::platform;

/// Extension of a layout that is being removed.
const EVICTED: &str = "evicted";

/// Folder of the files, below a node's own.
pub(super) const BLOBS: &str = "blobs";

/// Removes files that no layout links to, but for those `wanted`, and layouts, the longest unused first, until
/// the files take `room` bytes at most or only what is in use is left.
pub(super) fn evict(
    folder: &Path,
    used: &Mutex<Used>,
    room: u64,
    wanted: &HashSet<PathBuf>,
) -> io::Result<()> {
    let mut layouts = Vec::new();
    for layout in entries(&folder.join(LAYOUTS))? {
        layouts.push((layout.metadata()?.modified()?, layout.path()));
    }
    layouts.sort();
    let mut oldest = layouts.into_iter();
    while bytes_of_blobs(folder)? > room {
        remove_unlinked(folder, wanted)?;
        if bytes_of_blobs(folder)? <= room {
            return Ok(());
        }
        let Some((_, layout)) = oldest.next() else {
            return Ok(());
        };
        if take_name(&layout, used)? {
            fs::remove_dir_all(layout.with_extension(EVICTED))?;
        }
    }
    Ok(())
}

/// Removes what no layout links to: files, what is left of unfinished ones, and lists of chunks whose file is
/// gone. Where links were not possible the layouts have copies, and every file may go.
fn remove_unlinked(folder: &Path, wanted: &HashSet<PathBuf>) -> io::Result<()> {
    let (lists, blobs): (Vec<_>, Vec<_>) = blobs(folder)?
        .into_iter()
        .partition(|blob| blob.path().extension().is_some_and(|extension| extension == LIST));
    for blob in blobs {
        if platform::names_of_file(&blob.metadata()?) == 1
            && !wanted.contains(&finished(&blob.path()))
        {
            fs::remove_file(blob.path())?;
        }
    }
    for list in lists {
        let blob = list.path().with_extension("");
        if !blob.exists() && !wanted.contains(&blob) {
            fs::remove_file(list.path())?;
        }
    }
    Ok(())
}

/// The file that a file of the cache is or becomes: unfinished ones have names like `.<digest>.….part`.
pub(super) fn finished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    path.with_file_name(name.split('.').next().unwrap_or_default())
}

/// The lists of chunks in the folder of files.
pub(super) fn lists(blobs: &Path) -> Vec<PathBuf> {
    let prefixes = entries(blobs).unwrap_or_default();
    let files = prefixes.iter().flat_map(|prefix| entries(&prefix.path()).unwrap_or_default());
    let is_list = |path: &PathBuf| path.extension().is_some_and(|extension| extension == LIST);
    files.map(|file| file.path()).filter(is_list).collect()
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

pub(super) fn bytes_of_blobs(folder: &Path) -> io::Result<u64> {
    blobs(folder)?.iter().map(|blob| Ok(blob.metadata()?.len())).sum()
}

pub(super) fn blobs(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let mut all = Vec::new();
    for prefix in entries(&folder.join(BLOBS))? {
        all.extend(entries(&prefix.path())?);
    }
    Ok(all)
}

/// What is in a folder; nothing when it does not exist.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
