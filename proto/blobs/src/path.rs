//! Paths inside a project: one rule for whoever sends a project, keeps it or lays it out.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A path inside a project: relative, with `/` between its parts, and the same file on every system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectPath(String);

/// A text that is not a path inside a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Empty, or longer than [`ProjectPath::BYTES_MAX`].
    #[error("must have 1 to 1,024 bytes")]
    Length,
    /// Begins with `/` or a backslash.
    #[error("must be relative to the project")]
    Absolute,
    /// Has a backslash.
    #[error("must have / between its parts, and no backslash")]
    Backslash,
    /// Has a colon, which is a drive or a stream on Windows.
    #[error("must not have a colon")]
    Colon,
    /// Has a control character, like NUL or a line break.
    #[error("must not have control characters")]
    Control,
    /// Has a part that is empty, `.` or `..`.
    #[error("must not have parts that are empty, . or ..")]
    Part,
    /// Has a part longer than [`ProjectPath::PART_BYTES_MAX`].
    #[error("must not have parts of more than 255 bytes")]
    PartLength,
}

impl ProjectPath {
    /// Bytes of a path, at most.
    pub const BYTES_MAX: usize = 1_024;

    /// Bytes of a part between slashes, at most: what file systems take as a name.
    pub const PART_BYTES_MAX: usize = 255;

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the file is when the project lies in the folder `root`.
    #[must_use]
    pub fn under(&self, root: &Path) -> PathBuf {
        self.0.split('/').fold(root.to_owned(), |at, part| at.join(part))
    }
}

impl FromStr for ProjectPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        check(text).map(|()| Self(text.to_owned()))
    }
}

impl fmt::Display for ProjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str) -> Result<(), InvalidPath> {
    if text.is_empty() || text.len() > ProjectPath::BYTES_MAX {
        return Err(InvalidPath::Length);
    }
    if text.starts_with(['/', '\\']) {
        return Err(InvalidPath::Absolute);
    }
    if text.contains('\\') {
        return Err(InvalidPath::Backslash);
    }
    if text.contains(':') {
        return Err(InvalidPath::Colon);
    }
    if text.contains(char::is_control) {
        return Err(InvalidPath::Control);
    }
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(InvalidPath::Part);
    }
    if text.split('/').any(|part| part.len() > ProjectPath::PART_BYTES_MAX) {
        return Err(InvalidPath::PartLength);
    }
    Ok(())
}

/// Why a path cannot be one of a project's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It is no path inside any project.
    #[error(transparent)]
    Invalid(#[from] InvalidPath),
    /// An earlier file has the same path.
    #[error("stands in the project twice")]
    Twice,
    /// An earlier file's path is the same where case does not count.
    #[error("differs from another file's path only in case")]
    Case,
    /// Another file is in a folder of this path, where case does not count.
    #[error("is also the folder of another file")]
    Folder,
}

/// Checks all paths of a project, each by itself and beside the others. Gives what is wrong by the paths'
/// places, counted from 0, in their order and one fault for each path at most; empty: nothing.
#[must_use]
pub fn check_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<(usize, PathFault)> {
    let mut faults = Vec::new();
    let mut sorted = Vec::new();
    for (n, path) in paths.into_iter().enumerate() {
        match check(path) {
            // NUL sorts before all else, so a folder's files come right after it.
            Ok(()) => sorted.push((path.to_lowercase().replace('/', "\0"), n, path)),
            Err(invalid) => faults.push((n, invalid.into())),
        }
    }
    sorted.sort_unstable();
    for neighbours in sorted.windows(2) {
        let [(key, n, path), (next_key, next_n, next_path)] = neighbours else { continue };
        let rest = next_key.strip_prefix(key.as_str());
        if rest.is_some_and(|rest| rest.starts_with('\0')) {
            faults.push((*n, PathFault::Folder));
        } else if rest == Some("") {
            let same = path == next_path;
            faults.push((*next_n, if same { PathFault::Twice } else { PathFault::Case }));
        }
    }
    faults.sort_by_key(|(n, _)| *n);
    // A folder may stand there twice.
    faults.dedup_by_key(|(n, _)| *n);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_the_project_or_its_system_is_refused() {
        let long = "a/".repeat(600);
        let long_part = format!("a/{}", "é".repeat(128));
        for (path, why) in [
            ("", InvalidPath::Length),
            (&long, InvalidPath::Length),
            ("/etc/passwd", InvalidPath::Absolute),
            ("\\\\host\\a", InvalidPath::Absolute),
            ("a\\b", InvalidPath::Backslash),
            ("C:/a", InvalidPath::Colon),
            ("c:a", InvalidPath::Colon),
            ("textures/a:b.png", InvalidPath::Colon),
            ("a\0b", InvalidPath::Control),
            ("a\nb", InvalidPath::Control),
            ("..", InvalidPath::Part),
            ("../a", InvalidPath::Part),
            ("a/../b", InvalidPath::Part),
            ("./a", InvalidPath::Part),
            ("a//b", InvalidPath::Part),
            ("a/", InvalidPath::Part),
            (&long_part, InvalidPath::PartLength),
        ] {
            assert_eq!(path.parse::<ProjectPath>(), Err(why), "{path:?}");
        }
    }

    #[test]
    fn a_path_inside_the_project_is_where_it_says() {
        let longest_part = "a".repeat(ProjectPath::PART_BYTES_MAX);
        for path in ["shot.blend", "textures/..wood/a b.png", "é/日本.exr", &longest_part] {
            let parsed = path.parse::<ProjectPath>();
            assert_eq!(parsed.map(|path| path.to_string()).as_deref(), Ok(path));
        }
        let root = Path::new("root");
        let place = "textures/wood.png".parse::<ProjectPath>().map(|path| path.under(root));
        assert_eq!(place, Ok(root.join("textures").join("wood.png")));
    }

    #[test]
    fn files_that_cannot_lie_in_one_folder_are_refused_and_others_are_not() {
        let paths = ["a.blend", "tex", "Tex/wood.png", "../out", "a.blend", "A.blend", "tex/b"];
        assert_eq!(
            check_paths(paths),
            [
                (1, PathFault::Folder),
                (3, PathFault::Invalid(InvalidPath::Part)),
                (4, PathFault::Twice),
                (5, PathFault::Case),
            ]
        );
        // Characters below the slash must not part a folder from its files, nor seem to be in it.
        assert_eq!(check_paths(["a", "a!", "a/b"]), [(0, PathFault::Folder)]);
        assert_eq!(check_paths(["a", "a!", "ab/c", "tex/a", "Tex/b"]), []);
    }
}
