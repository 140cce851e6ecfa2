//! A path as a .blend stores it, and where Blender looks for it.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    path::{Component, Path, PathBuf},
};

use framecrew_blend::{bytes_of_text, text_of_bytes};

/// How a .blend stores a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StoredAs {
    /// From the folder of the .blend: `//tex/a.png`.
    Relative,
    /// From the root of the disk: `/srv/a.png`, `C:\a.png`.
    Absolute,
    /// From nowhere: `a.png`. Blender looks in the folder in which it was started; here it is the .blend's.
    Bare,
}

/// Where Blender looks for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// How it is stored.
    pub(crate) stored_as: StoredAs,
    /// What it leads to, with `..` taken by the letter: its place among the others.
    pub(crate) path: PathBuf,
    /// The same with `..` left to the system, for which a link before it counts.
    pub(crate) as_written: PathBuf,
}

impl Stored {
    /// Parses `text`, a path stored in a .blend whose folder has the absolute path `folder`. Stand-ins in the text
    /// replace bytes that are not Unicode.
    pub(crate) fn read(text: &str, folder: &Path) -> Self {
        let is_relative = text.starts_with("//");
        let text = text.replace('\\', "/");
        let (stored_as, as_written) = if is_relative {
            (StoredAs::Relative, folder.join(name_of_text(text.trim_start_matches('/'))))
        } else if let Some(path) = of_a_drive(&text) {
            (StoredAs::Absolute, PathBuf::from(name_of_text(&path)))
        } else if text.starts_with('/') {
            (
                StoredAs::Absolute,
                PathBuf::from(name_of_text(&format!("/{}", text.trim_start_matches('/')))),
            )
        } else {
            (StoredAs::Bare, folder.join(name_of_text(&text)))
        };
        Self { stored_as, path: clean(&as_written), as_written }
    }

    /// What the system finds there: by the letter, as Blender opens libraries, or else as it is written, as it
    /// opens all others.
    pub(crate) fn existing(&self) -> &Path {
        if self.path.symlink_metadata().is_err() && self.as_written.symlink_metadata().is_ok() {
            return &self.as_written;
        }
        &self.path
    }
}

/// A path of Windows. Elsewhere Blender makes `/c/tex/a.png` of `C:\tex\a.png`.
fn of_a_drive(text: &str) -> Option<String> {
    let mut letters = text.chars();
    let drive = letters.next().filter(char::is_ascii_alphabetic)?;
    let rest = letters.as_str().strip_prefix(':').filter(|rest| rest.starts_with('/'))?;
    if cfg!(windows) {
        return Some(text.into());
    }
    Some(format!("/{}{rest}", drive.to_ascii_lowercase()))
}

/// Converts a name to text. Stand-ins replace bytes that are not Unicode.
pub(crate) fn text_of_name(name: &OsStr) -> Cow<'_, str> {
    match name.to_str() {
        Some(text) => text.into(),
        None => text_of_bytes(name.as_encoded_bytes()).into(),
    }
}

/// Converts a text from [`text_of_name`] back to the name.
#[cfg(unix)]
pub(crate) fn name_of_text(text: &str) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes_of_text(text))
}

/// Converts a text from [`text_of_name`] back to the name.
#[cfg(not(unix))]
pub(crate) fn name_of_text(text: &str) -> OsString {
    String::from_utf8_lossy(&bytes_of_text(text)).into_owned().into()
}

/// Takes `.` and `..` out of an absolute path by the letter, without asking the disk.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            // The root's parent is the root.
            Component::ParentDir => drop(cleaned.pop()),
            component => cleaned.push(component),
        }
    }
    cleaned
}

/// The way from a file to another, both of them places in one project, as a .blend stores it.
pub(crate) fn relative(from_file: &str, to: &str) -> String {
    let from: Vec<&str> = from_file.split('/').collect();
    let to: Vec<&str> = to.split('/').collect();
    let folders = from.len() - 1;
    let shared = from[..folders].iter().zip(&to[..to.len() - 1]).take_while(|(a, b)| a == b);
    let shared = shared.count();
    let up = "../".repeat(folders - shared);
    format!("//{up}{}", to[shared..].join("/"))
}

/// What a relative path, stored in a file at the place `from_file`, leads to; none where it leads out.
pub(crate) fn follow(from_file: &str, text: &str) -> Option<String> {
    let text = text.strip_prefix("//")?.replace('\\', "/");
    let mut parts: Vec<&str> = from_file.split('/').collect();
    parts.pop();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_path_is_looked_for_where_blender_looks() {
        use StoredAs::{Absolute, Bare, Relative};
        for (text, stored_as, path) in [
            ("//tex/a.png", Relative, "/p/shot/tex/a.png"),
            ("//tex\\a b.png", Relative, "/p/shot/tex/a b.png"),
            ("//../../a.png", Relative, "/a.png"),
            ("//../../../../etc/passwd", Relative, "/etc/passwd"),
            ("///a.png", Relative, "/p/shot/a.png"),
            ("//./x/../a.png", Relative, "/p/shot/a.png"),
            ("/srv/a.png", Absolute, "/srv/a.png"),
            ("C:\\tex\\a.png", Absolute, "/c/tex/a.png"),
            ("z:/a.png", Absolute, "/z/a.png"),
            ("\\\\host\\share\\a.png", Absolute, "/host/share/a.png"),
            ("a.png", Bare, "/p/shot/a.png"),
            ("C:a.png", Bare, "/p/shot/C:a.png"),
        ] {
            let stored = Stored::read(text, Path::new("/p/shot"));
            assert_eq!((stored.stored_as, stored.path), (stored_as, path.into()), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_not_unicode_is_looked_for_as_stored() {
        let stored = Stored::read(&text_of_bytes(b"//tex\\caf\xe9.png"), Path::new("/p"));
        assert_eq!(stored.path.as_os_str().as_encoded_bytes(), b"/p/tex/caf\xe9.png");
        let name = stored.path.file_name().unwrap();
        assert_eq!(name_of_text(&text_of_name(name)), name);
    }

    #[test]
    fn the_way_between_two_places_leads_there() {
        for (from, to, way) in [
            ("shot.blend", "tex/a.png", "//tex/a.png"),
            ("a/b/shot.blend", "a/tex/a.png", "//../tex/a.png"),
            ("a/b/shot.blend", "a/b/a.png", "//a.png"),
            ("a/shot.blend", "b.png", "//../b.png"),
            ("a/shot.blend", "a", "//../a"),
        ] {
            assert_eq!(relative(from, to), way);
            assert_eq!(follow(from, way).as_deref(), Some(to));
        }
        assert_eq!(follow("a/shot.blend", "//..\\b.png").as_deref(), Some("b.png"));
        assert_eq!(follow("a/shot.blend", "//../../b.png"), None);
        assert_eq!(follow("a/shot.blend", "/b.png"), None);
    }
}
