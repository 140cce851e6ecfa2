//! Records which files Framecrew has written, and so may replace, and which belong to a person.
//!
//! Each file has a mark with the digest of what was written, as an extended attribute. On file systems without
//! attributes, a note in the folder holds the marks. A file that still has that content may be replaced. A file
//! without a mark, or changed since, may not.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use framecrew_blobs::Digest;
use serde::{Deserialize, Serialize};

/// Name of the note in its folder. No output can have it, because names of outputs do not begin with a dot.
const NOTE_NAME: &str = ".framecrew-written";
/// Lines for each name before the note is rewritten, so that it does not grow without bound in a folder that is
/// used every day.
const LINES_A_NAME: usize = 8;
/// Maximum size of a note, enough for a million frames. Framecrew did not write a larger one.
const NOTE_BYTES_MAX: u64 = 256 << 20;

/// The mark of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The digest of the content that was written.
    blake3: String,
    /// The file's modification time, in nanoseconds since 1970. If it is unchanged, the file need not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime_ns: Option<u64>,
    /// Which job wrote it, for people: `job 7 at http://127.0.0.1:4000`.
    by: String,
}

/// One line of the note.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// Path of the file below the folder.
    name: String,
    #[serde(flatten)]
    mark: Mark,
}

/// What is at the place of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is there.
    Absent,
    /// The output itself is there.
    Same,
    /// A file is there that may be replaced: Framecrew wrote it, or it is empty.
    Ours,
    /// A file is there that a person made or changed.
    Theirs,
}

/// The files of one folder that Framecrew has written. Its methods block.
#[derive(Debug)]
pub(crate) struct Written {
    note: PathBuf,
    /// The marks in the note.
    noted: Mutex<BTreeMap<String, Mark>>,
    /// Whether files get their marks as attributes, if the file system supports them.
    marks_files: bool,
}

impl Written {
    /// Reads the folder's note, if there is one. A note that cannot be read has no marks, so nothing is replaced.
    pub(crate) fn read(folder: &Path) -> Self {
        let note = folder.join(NOTE_NAME);
        let (noted, lines) = match read(&note) {
            Ok(read) => read,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(%error, note = %note.display(), "the note is not read");
                }
                Default::default()
            }
        };
        if lines > LINES_A_NAME * noted.len().max(1)
            && let Err(error) = rewrite(folder, &note, &noted)
        {
            tracing::debug!(%error, note = %note.display(), "the note stays long");
        }
        Self { note, noted: Mutex::new(noted), marks_files: true }
    }

    /// Marks a file as written by Framecrew before it gets its name, so that it has its mark even if the process is
    /// killed right after. Returns the mark if the file system cannot store it; the caller notes it after the rename.
    pub(crate) fn mark(&self, part: &Path, content: Digest, by: &str) -> Option<Mark> {
        let mtime_ns = fs::symlink_metadata(part).ok().and_then(|metadata| mtime_ns(&metadata));
        let mark = Mark { blake3: content.to_string(), mtime_ns, by: by.into() };
        (!self.put_on_file(part, &mark)).then_some(mark)
    }

    /// Writes a mark into the note. If that fails, the file counts as a person's from then on.
    pub(crate) fn note(&self, name: &str, mark: Mark) {
        if let Err(error) = self.add(Line { name: name.into(), mark }) {
            tracing::debug!(%error, name, "the file is not marked");
        }
    }

    /// Marks an existing file that has the content of an output but no mark. Either Framecrew wrote it and the mark was
    /// lost, as in a copy, or a person made it; then nothing is lost with it, because the job has the same bytes.
    pub(crate) fn mark_kept(&self, name: &str, path: &Path, content: Digest, by: &str) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        let is_marked = self.mark_of(name, path).is_some_and(|it| it.blake3 == content.to_string());
        if is_marked || !metadata.is_file() {
            return;
        }
        // The time is taken before the content is read, so that a file that a person saves meanwhile does not count as
        // unchanged.
        if Digest::of_file(path).is_ok_and(|(found, _)| found == content) {
            let mtime_ns = mtime_ns(&metadata);
            let mark = Mark { blake3: content.to_string(), mtime_ns, by: by.into() };
            if !self.put_on_file(path, &mark) {
                self.note(name, mark);
            }
        }
    }

    /// Writes a mark into the attributes of a file; returns whether that succeeded.
    fn put_on_file(&self, path: &Path, mark: &Mark) -> bool {
        let bytes = serde_json::to_vec(mark).ok().filter(|_| self.marks_files);
        bytes.is_some_and(|bytes| attribute::write(path, &bytes).is_ok())
    }

    fn mark_of(&self, name: &str, path: &Path) -> Option<Mark> {
        let mark = attribute::read(path).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        mark.or_else(|| self.lock().get(name).cloned())
    }

    /// Determines what is at `path`, the place of the file `name`. `wanted` is the content of the output, if
    /// known.
    pub(crate) fn standing(&self, name: &str, path: &Path, wanted: Option<Digest>) -> Standing {
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Standing::Absent,
            Err(_) => return Standing::Theirs,
            Ok(metadata) => metadata,
        };
        let mark = self.mark_of(name, path);
        let stamp = mtime_ns(&metadata);
        let is_unchanged = mark.as_ref().is_some_and(|it| stamp.is_some() && it.mtime_ns == stamp);
        if wanted.is_none() && metadata.is_file() && is_unchanged {
            return Standing::Ours;
        }
        // Follows a link: it may lead to exactly the content that would be written.
        let content = fs::metadata(path).ok().filter(Metadata::is_file);
        let content = content.and_then(|_| Digest::of_file(path).ok()).map(|(digest, _)| digest);
        match content {
            Some(content) if Some(content) == wanted => Standing::Same,
            _ if !metadata.is_file() => Standing::Theirs,
            // Blender's own placeholders are empty. Nothing is lost if one is replaced.
            _ if metadata.len() == 0 => Standing::Ours,
            Some(content) if mark.is_some_and(|mark| mark.blake3 == content.to_string()) => {
                Standing::Ours
            }
            _ => Standing::Theirs,
        }
    }

    fn add(&self, line: Line) -> io::Result<()> {
        let mut noted = self.lock();
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        // Through a link the data would be written outside the folder.
        if fs::symlink_metadata(&self.note).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("the note is no file"));
        }
        // One write, so that two commands in one folder do not mix their lines.
        File::options().append(true).create(true).open(&self.note)?.write_all(text.as_bytes())?;
        noted.insert(line.name, line.mark);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Mark>> {
        // No holder of the lock panics, so a poisoned lock still guards valid data.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores the mark on the file itself.
mod attribute {
    use std::{io, path::Path};

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    const NAME: &str = "user.framecrew.written";
    /// Maximum size of a mark that is read. Framecrew's own have some 200 bytes.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    const BYTES_MAX: usize = 4_096;

    /// Reads the mark of the file itself, never of a link's target.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
        let mut bytes = vec![0; BYTES_MAX];
        let length = rustix::fs::lgetxattr(path, NAME, &mut bytes[..]).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let flags = rustix::fs::XattrFlags::empty();
        Ok(rustix::fs::lsetxattr(path, NAME, bytes, flags)?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
    pub(super) fn read(_: &Path) -> Option<Vec<u8>> {
        None
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
    pub(super) fn write(_: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Returns the marks in the note by name, and the number of lines. A line that a crash cut off is ignored.
fn read(note: &Path) -> io::Result<(BTreeMap<String, Mark>, usize)> {
    let metadata = fs::symlink_metadata(note)?;
    if !metadata.is_file() || metadata.len() > NOTE_BYTES_MAX {
        return Err(io::Error::other("it is not one of ours"));
    }
    let mut noted = BTreeMap::new();
    let mut lines = 0;
    for text in BufReader::new(File::open(note)?).split(b'\n') {
        if let Ok(Line { name, mark }) = serde_json::from_slice(&text?) {
            noted.insert(name, mark);
            lines += 1;
        }
    }
    Ok((noted, lines))
}

fn rewrite(folder: &Path, note: &Path, noted: &BTreeMap<String, Mark>) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".framecrew-").tempfile_in(folder)?;
    let mut text = Vec::new();
    for (name, mark) in noted {
        serde_json::to_writer(&mut text, &Line { name: name.clone(), mark: mark.clone() })?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    // Other people who write here must still be able to append to it.
    file.as_file().set_permissions(fs::metadata(note)?.permissions())?;
    file.persist(note)?;
    Ok(())
}

fn mtime_ns(metadata: &Metadata) -> Option<u64> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        marks_files: bool,
    }

    impl Folder {
        /// A folder whose files get their marks as attributes, and a folder that needs a note.
        fn both() -> [Self; 2] {
            [true, false]
                .map(|marks_files| Self { folder: tempfile::tempdir().unwrap(), marks_files })
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn put(&self, name: &str, content: &[u8]) {
            fs::write(self.path(name), content).unwrap();
        }

        fn written(&self) -> Written {
            Written { marks_files: self.marks_files, ..Written::read(self.folder.path()) }
        }

        /// Writes a file as a download does, by renaming another file to it.
        fn bring(&self, name: &str, content: &[u8]) {
            if let Some(mark) = self.bring_without_note(name, content) {
                self.written().note(name, mark);
            }
        }

        /// Does the same up to the rename. Returns the mark if it has to be noted.
        fn bring_without_note(&self, name: &str, content: &[u8]) -> Option<Mark> {
            self.put("new", content);
            let mark = self.written().mark(&self.path("new"), Digest::of(content), "job 7");
            fs::rename(self.path("new"), self.path(name)).unwrap();
            mark
        }

        fn standing(&self, wanted: Option<&[u8]>) -> Standing {
            let wanted = wanted.map(Digest::of);
            self.written().standing("0001.png", &self.path("0001.png"), wanted)
        }
    }

    #[test]
    fn a_written_file_may_be_replaced_until_somebody_changes_it() {
        for folder in Folder::both() {
            assert_eq!(folder.standing(Some(b"new")), Standing::Absent);
            folder.bring("0001.png", b"older");
            folder.bring("0001.png", b"old");
            for wanted in [None, Some(&b"new"[..])] {
                assert_eq!(folder.standing(wanted), Standing::Ours);
            }
            assert_eq!(folder.standing(Some(b"old")), Standing::Same);
            // Edited to the same size.
            let before = fs::metadata(folder.path("0001.png")).unwrap().modified().unwrap();
            folder.put("0001.png", b"0ld");
            let file = File::options().append(true).open(folder.path("0001.png")).unwrap();
            file.set_modified(before + std::time::Duration::from_secs(9)).unwrap();
            for wanted in [None, Some(&b"new"[..])] {
                assert_eq!(folder.standing(wanted), Standing::Theirs);
            }
        }
    }

    #[test]
    fn a_file_that_was_there_before_stays_unless_it_is_empty() {
        for folder in Folder::both() {
            folder.put("0001.png", b"a person's");
            assert_eq!(folder.standing(Some(b"new")), Standing::Theirs);
            assert_eq!(folder.standing(None), Standing::Theirs);
            assert_eq!(folder.standing(Some(b"a person's")), Standing::Same);
            folder.put("0001.png", b"");
            assert_eq!(folder.standing(Some(b"new")), Standing::Ours);
        }
    }

    #[test]
    fn a_file_has_its_mark_as_soon_as_it_has_its_name() {
        let [folder, _] = Folder::both();
        folder.put("probe", b"");
        // The file system of the temporary folder may have no attributes.
        let has_attributes = attribute::write(&folder.path("probe"), b"{}").is_ok();
        assert_eq!(folder.bring_without_note("0001.png", b"old").is_none(), has_attributes);
        if has_attributes {
            assert_eq!(folder.standing(None), Standing::Ours);
            assert_eq!(folder.standing(Some(b"new")), Standing::Ours);
        }
    }

    #[test]
    fn an_existing_file_is_marked_only_if_it_has_the_content_of_an_output() {
        for folder in Folder::both() {
            let keep = |content: &[u8]| {
                let path = folder.path("0001.png");
                folder.written().mark_kept("0001.png", &path, Digest::of(content), "job 7");
            };
            folder.put("0001.png", b"frame");
            keep(b"another");
            assert_eq!(folder.standing(Some(b"new")), Standing::Theirs);
            keep(b"frame");
            assert_eq!(folder.standing(None), Standing::Ours);
            assert_eq!(folder.standing(Some(b"new")), Standing::Ours);
            let note = fs::read(folder.path(NOTE_NAME)).ok();
            keep(b"frame");
            assert_eq!(fs::read(folder.path(NOTE_NAME)).ok(), note, "it is marked once");
        }
    }

    #[test]
    fn a_note_only_exists_if_files_cannot_be_marked_and_stays_bounded() {
        let [marked, noted] = Folder::both();
        for round in 0..3 * LINES_A_NAME {
            let content = format!("round {round}");
            for folder in [&marked, &noted] {
                folder.bring("0001.png", content.as_bytes());
            }
        }
        let note = noted.path(NOTE_NAME);
        let lines = fs::read_to_string(&note).unwrap().lines().count();
        assert!(lines <= LINES_A_NAME + 1, "{lines}");
        // A crash may cut off the last line.
        let mut bytes = fs::read(&note).unwrap();
        bytes.extend_from_slice(b"{\"name\":\"0001.png\",\"bl");
        fs::write(&note, bytes).unwrap();
        assert_eq!(noted.standing(Some(b"new")), Standing::Ours);
        // Only if the temporary folder's file system supports attributes.
        if attribute::write(&marked.path("0001.png"), b"{}").is_ok() {
            assert!(!marked.path(NOTE_NAME).exists());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_the_note_or_a_file_is_not_followed() {
        for folder in Folder::both() {
            let elsewhere = tempfile::NamedTempFile::new().unwrap();
            fs::write(elsewhere.path(), "a person's").unwrap();
            let link = |name| std::os::unix::fs::symlink(elsewhere.path(), folder.path(name));
            link("0001.png").unwrap();
            assert_eq!(folder.standing(Some(b"new")), Standing::Theirs);
            assert_eq!(folder.standing(Some(b"a person's")), Standing::Same);
            let content = Digest::of(b"a person's");
            folder.written().mark_kept("0001.png", &folder.path("0001.png"), content, "job 7");
            assert!(!folder.path(NOTE_NAME).exists(), "a link is not marked");
            link(NOTE_NAME).unwrap();
            folder.bring("0002.png", b"new");
            assert_eq!(fs::read_to_string(elsewhere.path()).unwrap(), "a person's");
        }
    }
}
