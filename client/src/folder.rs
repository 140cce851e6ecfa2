//! Targets for outputs: a folder, or a file in a folder, that was checked to be writable.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use framecrew_blobs::{Digest, ProjectPath};

use crate::{
    error::Error,
    written::{Mark, Standing, Written},
};

/// Bytes written to test a folder before a job is submitted: enough to notice a full disk.
const PROBE_BYTES: usize = 256 * 1024;

/// A folder that was checked to be writable. Files in it that Framecrew did not write, or that were changed since,
/// are kept.
#[derive(Debug, Clone)]
pub struct OutputFolder {
    path: PathBuf,
    /// Folders created for it, itself included, the innermost first.
    made: Vec<PathBuf>,
    written: Arc<Written>,
    overwrites: bool,
}

/// The target file of an output, in a folder that was checked to be writable.
#[derive(Debug, Clone)]
pub struct OutputFile {
    folder: OutputFolder,
    /// Path below the folder.
    name: String,
    path: PathBuf,
}

impl OutputFolder {
    /// Creates the folder if it is missing, and writes a test file to check that it is writable. Blocks for a
    /// moment.
    ///
    /// # Errors
    /// [`Error::OutputFolder`] if it cannot be created or written to.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let made = path.ancestors().take_while(is_missing).map(Path::to_owned).collect();
        let probe = || -> io::Result<()> {
            fs::create_dir_all(path)?;
            let mut file =
                tempfile::Builder::new().prefix(".framecrew-probe-").tempfile_in(path)?;
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.as_file().sync_all()
        };
        let probed = probe();
        let written = Arc::new(Written::read(path));
        let opened = Self { path: path.into(), made, written, overwrites: false };
        match probed {
            Ok(()) => Ok(opened),
            Err(source) => {
                opened.abandon();
                Err(Error::OutputFolder { path: path.into(), source: plain(source) })
            }
        }
    }

    /// Sets whether an output may replace any file of its name, including one that a person made. Off by default.
    #[must_use]
    pub fn overwriting(self, overwrites: bool) -> Self {
        Self { overwrites, ..self }
    }

    /// Removes the folders that were created for it, if they are empty. To be called if no output will arrive.
    pub fn abandon(self) {
        for folder in &self.made {
            // It does no harm if a folder cannot be removed.
            let _ = fs::remove_dir(folder);
        }
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an error if the folder itself contains a file whose name satisfies `is_output` and that must not be
    /// replaced. Blocks.
    pub(crate) fn check_free(&self, is_output: impl Fn(&str) -> bool) -> Result<(), Error> {
        if self.overwrites || !self.made.is_empty() {
            return Ok(());
        }
        let unusable = |source| Error::OutputFolder { path: self.path.clone(), source };
        let mut theirs = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.filter(|name| is_output(name)) else { continue };
            if self.written.standing(name, &path, None) == Standing::Theirs {
                theirs.push(path);
            }
        }
        theirs.sort();
        match theirs.first() {
            None => Ok(()),
            Some(first) => {
                Err(Error::InTheWay { path: first.clone(), more: theirs.len() as u64 - 1 })
            }
        }
    }

    /// Returns the target file of an output and creates the folders in its name. The name is untrusted: neither it
    /// nor a link in the folder may lead out of the folder.
    pub(crate) async fn place(&self, name: &str) -> Result<OutputFile, Error> {
        let (folder, name) = (self.clone(), name.to_owned());
        let placed = tokio::task::spawn_blocking(move || {
            let path = place(&folder.path, &name)?;
            Ok(OutputFile { folder, name, path })
        });
        match placed.await {
            Ok(place) => place,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl OutputFile {
    /// Creates the file's folder if it is missing and checks that it is writable. Blocks for a moment.
    ///
    /// # Errors
    /// [`Error::OutputFolder`] if it cannot be created or written to.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = OutputFolder::open(folder.unwrap_or(Path::new(".")))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { folder, name, path: path.into() })
    }

    /// Sets whether it may replace any existing file, including one that a person made. Off by default.
    #[must_use]
    pub fn overwriting(self, overwrites: bool) -> Self {
        Self { folder: self.folder.overwriting(overwrites), ..self }
    }

    /// Removes the folders that were created for it, if they are empty. To be called if no output will arrive.
    pub fn abandon(self) {
        self.folder.abandon();
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an error if a file is there that must not be replaced. Blocks.
    ///
    /// # Errors
    /// [`Error::InTheWay`].
    pub fn check_free(&self) -> Result<(), Error> {
        match self.folder.written.standing(&self.name, &self.path, None) {
            Standing::Theirs if !self.folder.overwrites => Err(self.in_the_way()),
            _ => Ok(()),
        }
    }

    /// Determines what is there now, where this content is to be written. Blocks.
    ///
    /// # Errors
    /// [`Error::InTheWay`] if it must not be replaced.
    pub(crate) fn make_way(&self, content: Digest) -> Result<Standing, Error> {
        match self.folder.written.standing(&self.name, &self.path, Some(content)) {
            Standing::Theirs if !self.folder.overwrites => Err(self.in_the_way()),
            standing => Ok(standing),
        }
    }

    /// Marks a file that will be renamed to this one with its content and the job that wrote it. Returns the mark if
    /// the file system cannot store it; then [`Self::note`] has to follow the rename. Blocks.
    pub(crate) fn mark(&self, part: &Path, content: Digest, by: &str) -> Option<Mark> {
        self.folder.written.mark(part, content, by)
    }

    /// Writes a mark into the note of the folder. Blocks.
    pub(crate) fn note(&self, mark: Mark) {
        self.folder.written.note(&self.name, mark);
    }

    /// Marks the existing file if it has this content but no mark. Blocks.
    pub(crate) fn mark_kept(&self, content: Digest, by: &str) {
        self.folder.written.mark_kept(&self.name, &self.path, content, by);
    }

    fn in_the_way(&self) -> Error {
        Error::InTheWay { path: self.path.clone(), more: 0 }
    }
}

fn place(root: &Path, name: &str) -> Result<PathBuf, Error> {
    let refused = |why: &str| Error::Failed {
        message: format!("the orchestrator names an output {name:?}, {why}; it was not fetched"),
    };
    let is_hidden = |part: &str| part.starts_with('.');
    let path = name.parse::<ProjectPath>().ok().filter(|_| !name.split('/').any(is_hidden));
    let path = path.ok_or_else(|| refused("which is not a file name"))?;
    let unusable = |source| Error::OutputFolder { path: root.into(), source };
    let to = path.under(root);
    if to.is_dir() {
        return Err(refused("but there is a folder of that name"));
    }
    let Some((folders, _)) = name.rsplit_once('/') else { return Ok(to) };
    let real_root = root.canonicalize().map_err(unusable)?;
    let mut folder = root.to_owned();
    for part in folders.split('/') {
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(error));
            }
            _ => {}
        }
        // Checked before anything is created below it, because only now is it known where a link leads.
        match folder.canonicalize() {
            Ok(real) if !real.is_dir() => {
                return Err(refused("but there is a file where its folder would be"));
            }
            Ok(real) if real.starts_with(&real_root) => {}
            Ok(_) => return Err(refused("but a link leads from there to another folder")),
            Err(error) => return Err(refused(&format!("but its folder cannot be used ({error})"))),
        }
    }
    Ok(to)
}

/// Removes the name of `tempfile`'s probe from the message, as it means nothing to people.
fn plain(error: io::Error) -> io::Error {
    match (error.raw_os_error(), error.kind()) {
        (None, kind) if kind != io::ErrorKind::Other => io::Error::from(kind),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_probe_creates_a_folder_and_leaves_it_empty() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        OutputFolder::open(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn abandoning_a_folder_keeps_older_and_newer_files() {
        let base = tempfile::tempdir().unwrap();
        OutputFolder::open(base.path()).unwrap().abandon();
        OutputFolder::open(&base.path().join("a/b")).unwrap().abandon();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        let used = OutputFolder::open(&base.path().join("c")).unwrap();
        fs::write(used.path().join("0001.png"), b"frame").unwrap();
        used.abandon();
        assert!(base.path().join("c/0001.png").exists());
    }

    #[test]
    fn a_folder_below_a_file_is_refused_with_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().join("frames");
        let text = OutputFolder::open(&path).unwrap_err().to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("-o DIR") && !text.contains("probe"), "{text}");
    }

    #[test]
    fn no_output_name_leads_out_of_the_folder() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(place(base.path(), "0001.png").unwrap(), base.path().join("0001.png"));
        for name in [
            "",
            ".",
            "..",
            "../a",
            "/etc/a",
            "a/../../b",
            "a//b",
            "a/",
            "a\\b",
            "C:a",
            ".hidden",
            ".git/config",
            "a/.b",
            "a\0b",
        ] {
            assert!(place(base.path(), name).is_err(), "{name:?}");
        }
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0, "nothing is made");
    }

    #[test]
    fn an_output_in_a_folder_gets_that_folder() {
        let base = tempfile::tempdir().unwrap();
        let to = place(base.path(), "masks/near/0042.png").unwrap();
        fs::write(&to, b"mask").unwrap();
        assert_eq!(to, base.path().join("masks/near/0042.png"));
        assert!(place(base.path(), "masks/near/0043.png").is_ok());
        for (name, what) in [("masks/near/0042.png/a.png", "file"), ("masks", "folder")] {
            let text = place(base.path(), name).unwrap_err().to_string();
            assert!(text.contains(&format!("there is a {what}")), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn no_link_in_the_folder_leads_an_output_out_of_it() {
        use std::os::unix::fs::symlink;
        let base = tempfile::tempdir().unwrap();
        let (inside, outside) = (base.path().join("in"), base.path().join("out"));
        fs::create_dir_all(inside.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, inside.join("away")).unwrap();
        symlink("../../out", inside.join("real/up")).unwrap();
        symlink(inside.join("real"), inside.join("near")).unwrap();
        for name in ["away/a.png", "away/new/a.png", "real/up/a.png", "near/up/a.png"] {
            let text = place(&inside, name).unwrap_err().to_string();
            assert!(text.contains("a link leads"), "{name}: {text}");
        }
        assert!(place(&inside, "near/a.png").is_ok());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is made there");
    }
}
