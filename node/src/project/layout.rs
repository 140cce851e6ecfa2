//! A project in its layout: a folder of links to the cache's files.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Weak,
};

use framecrew_blobs::{Digest, ProjectPath};

use crate::platform;

/// Folder of the layouts, below a node's own.
pub(crate) const LAYOUTS: &str = "layouts";

/// A project on disk. Not evicted while this lives.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    /// Where a file of the project is.
    pub(crate) fn path(&self, file: &ProjectPath) -> PathBuf {
        file.under(&self.root)
    }
}

/// Layouts in use, by key.
pub(super) type Used = HashMap<Digest, Weak<Layout>>;

/// Makes the layout `root`, one of `layouts`, of files and the blobs that they are.
pub(super) fn link_all(
    files: &[(ProjectPath, PathBuf)],
    layouts: &Path,
    root: &Path,
) -> io::Result<()> {
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
