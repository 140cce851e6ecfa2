//! The files on the disk for which one path of a .blend stands.

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use framecrew_blend::{Files, ReferenceKind};

use super::{
    media,
    stored::{Stored, name_of_text, text_of_name},
    usd,
};

/// How deep a folder of a cache is followed; the deepest that Blender makes has four levels.
const FOLDER_DEPTH_MAX: usize = 16;

/// Maximum number of missing files that are named for one path.
const LACKING_MAX: usize = 16;

/// Files of a folder that are inspected to decide whether it contains a bake.
const BAKED_FRAMES_SEEN: usize = 100;

/// How large the files are that Git leaves in the place of large ones, in bytes.
const LFS_POINTER_BYTES: std::ops::Range<u64> = 100..256;

/// A file that a project needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    /// Where the .blend puts it: an absolute path without `..`.
    pub(crate) path: PathBuf,
    /// Where the system has it, where that is written in another way.
    pub(crate) from: Option<PathBuf>,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
    /// Whether its name is that of a link.
    pub(crate) is_link: bool,
}

impl Needed {
    /// The path to open.
    pub(crate) fn source(&self) -> &Path {
        self.from.as_deref().unwrap_or(&self.path)
    }
}

/// Why there is nothing to send for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absence {
    /// There is nothing.
    Missing,
    /// There is something, of which Blender could not make anything.
    NoMedia,
    /// There is something that is not made to be read: a pipe, a device, a folder in the place of a file.
    NoFile(&'static str),
    /// Git keeps the file itself elsewhere.
    LfsPointer,
    /// It is a library that cannot be read as a .blend.
    Damaged(String),
    /// The system does not let it be read.
    Unreadable(String),
    /// Nothing is there, and nothing that is drawn needs it.
    Unmissed,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::NoMedia => f.write_str("not of a kind that Blender reads; it stays here"),
            Self::NoFile(what) => write!(f, "{what}, not a file; it stays here"),
            Self::LfsPointer => {
                f.write_str("only a Git LFS pointer; `git lfs pull` fetches the file itself")
            }
            Self::Damaged(reason) => f.write_str(reason),
            Self::Unreadable(reason) => write!(f, "unreadable ({reason})"),
            Self::Unmissed => f.write_str("not there, and nothing that is drawn needs it"),
        }
    }
}

/// What there is for a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Found {
    /// The files, by name.
    pub(crate) files: Vec<Needed>,
    /// How many more the .blend names that are not there.
    pub(crate) missing: usize,
    /// Some of the missing files, by the paths where they should be.
    pub(crate) lacking: Vec<PathBuf>,
    /// For each of these files, a frame of the job that shows it, if known.
    pub(crate) lacking_frames: Vec<i32>,
    /// The folder that contains all of them, if they must stay together and it is not the folder of the path.
    pub(crate) anchor: Option<PathBuf>,
    /// Why there are none, where there are none.
    pub(crate) absence: Option<Absence>,
}

impl Found {
    fn none(absence: Absence) -> Self {
        Self { missing: 1, absence: Some(absence), ..Self::default() }
    }

    /// Counts a missing file.
    pub(crate) fn lack(&mut self, path: PathBuf) {
        self.missing += 1;
        if self.lacking.len() < LACKING_MAX {
            self.lacking.push(path);
        }
    }

    /// Returns a copy for a reference that is not drawn, in which nothing counts as missing.
    pub(crate) fn unmissed(&self) -> Self {
        let absence = self.absence.as_ref().map(|_| Absence::Unmissed);
        Self {
            missing: 0,
            lacking: Vec::new(),
            lacking_frames: Vec::new(),
            absence,
            ..self.clone()
        }
    }

    /// Whether a file is missing that is drawn.
    pub(crate) fn is_missed(&self) -> bool {
        self.missing > 0 || self.absence.as_ref().is_some_and(|why| *why != Absence::Unmissed)
    }

    fn of(files: Vec<Needed>, missing: usize) -> Self {
        if files.is_empty() {
            Self::none(Absence::Missing)
        } else {
            Self { files, missing, ..Self::default() }
        }
    }
}

/// Looks for what a path stands for. Gives at most one more file than `limit`.
pub(crate) fn find(
    stored: &Stored,
    stands_for: &Files,
    kind: ReferenceKind,
    limit: usize,
) -> Found {
    let mut found = match stands_for {
        Files::One => {
            let file = look(&stored.path, stored.existing(), kind);
            file.map_or_else(Found::none, |file| Found::of(vec![file], 0))
        }
        Files::Sequence { .. } => sequence(stored, limit),
        Files::Tiles { numbers } => tiles(stored, numbers, limit),
        Files::Folder => folder(stored, limit),
        Files::Named(names) => named(stored, names, limit),
    };
    if kind == ReferenceKind::Cache {
        add_layers(stored, &mut found);
    }
    found
}

/// Adds the layers of USD files, which must keep their relative places.
fn add_layers(stored: &Stored, found: &mut Found) {
    let mut known: HashSet<PathBuf> = found.files.iter().map(|file| file.path.clone()).collect();
    let mut anchor = stored.path.parent().map(Path::to_owned);
    for file in found.files.clone() {
        if !usd::is_usd(&file.path) {
            continue;
        }
        let layers = usd::layers(file.source());
        for path in layers.there {
            if !known.insert(path.clone()) {
                continue;
            }
            match look_for_media(&path, &path) {
                Ok(layer) => {
                    anchor = anchor.as_deref().and_then(|anchor| {
                        anchor
                            .ancestors()
                            .find(|folder| path.starts_with(folder))
                            .map(Path::to_owned)
                    });
                    found.files.push(layer);
                }
                Err(_) => found.lack(path),
            }
        }
        layers.missing.into_iter().chain(layers.absolute).for_each(|path| found.lack(path));
    }
    // The root of the disk contains everything.
    let anchor = anchor.filter(|anchor| anchor.parent().is_some());
    found.anchor = anchor.filter(|anchor| Some(&**anchor) != stored.path.parent());
}

fn one(stored: &Stored) -> Result<Needed, Absence> {
    look_for_media(&stored.path, stored.existing())
}

/// Looks for a file of any kind that Blender reads.
fn look_for_media(path: &Path, from: &Path) -> Result<Needed, Absence> {
    look(path, from, ReferenceKind::Image)
}

fn look(path: &Path, from: &Path, kind: ReferenceKind) -> Result<Needed, Absence> {
    let by_name = from.symlink_metadata().map_err(|error| absence(&error))?;
    let is_link = by_name.is_symlink();
    let metadata =
        if is_link { from.metadata().map_err(|error| absence(&error))? } else { by_name };
    if !metadata.is_file() {
        return Err(Absence::NoFile(if metadata.is_dir() {
            "a folder"
        } else {
            "a pipe or device"
        }));
    }
    let target =
        if is_link { from.canonicalize().map_err(|error| absence(&error))? } else { from.into() };
    if !media::is_read_by_blender(&target, kind) {
        return Err(Absence::NoMedia);
    }
    if LFS_POINTER_BYTES.contains(&metadata.len()) && is_lfs_pointer(from) {
        return Err(Absence::LfsPointer);
    }
    Ok(Needed {
        path: path.into(),
        from: (from != path).then(|| from.into()),
        size_bytes: metadata.len(),
        is_link,
    })
}

fn is_lfs_pointer(file: &Path) -> bool {
    fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"version https://git-lfs"))
}

fn absence(error: &io::Error) -> Absence {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Absence::Missing,
        // As it is for Blender.
        io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => Absence::Missing,
        _ => Absence::Unreadable(error.to_string()),
    }
}

/// All files of a folder whose names differ from this one's in its last number only: which of them Blender shows
/// is decided by offsets, drivers and loops.
fn sequence(stored: &Stored, limit: usize) -> Found {
    let name = stored.path.file_name().map(text_of_name);
    let Some((before, after)) = name.as_deref().and_then(around_number) else {
        return one(stored).map_or_else(Found::none, |file| Found::of(vec![file], 0));
    };
    matching(stored, limit, |name| {
        let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(is_number)
    })
}

/// The path without the number that tells pictures in a row apart: the same for all of them.
pub(crate) fn row_of(path: &Path) -> PathBuf {
    let name = path.file_name().map(text_of_name);
    match name.as_deref().and_then(around_number) {
        Some((before, after)) => path.with_file_name(name_of_text(&format!("{before}/{after}"))),
        None => path.to_owned(),
    }
}

/// What stands before and after the number of a picture in a row: its last digits, but for those of its ending.
pub(crate) fn around_number(name: &str) -> Option<(&str, &str)> {
    let stem = name.rfind('.').unwrap_or(name.len());
    let end = name[..stem].rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = name[..end].rfind(|c: char| !c.is_ascii_digit());
    let start = start.map_or(0, |at| at + name[at..].chars().next().map_or(1, char::len_utf8));
    Some((&name[..start], &name[end..]))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn tiles(stored: &Stored, numbers: &[i32], limit: usize) -> Found {
    let name = stored.path.file_name().map(text_of_name).unwrap_or_default();
    let Some(pattern) = TilePattern::of(&name) else {
        return one(stored).map_or_else(Found::none, |file| Found::of(vec![file], 0));
    };
    if numbers.is_empty() {
        return matching(stored, limit, |name| pattern.matches(name));
    }
    let mut absence = None;
    let mut found = Found::default();
    for number in numbers.iter().take(limit.saturating_add(1)) {
        let name = name_of_text(&pattern.name(*number));
        match look_for_media(
            &stored.path.with_file_name(&name),
            &stored.existing().with_file_name(&name),
        ) {
            Ok(file) => found.files.push(file),
            Err(other) => {
                found.lack(stored.path.with_file_name(&name));
                absence = absence.or(Some(other));
            }
        }
    }
    match absence {
        Some(absence) if found.files.is_empty() => Found::none(absence),
        _ => found,
    }
}

/// How the tiles of a picture are named.
struct TilePattern<'a> {
    before: &'a str,
    after: &'a str,
    numbering: Numbering,
}

enum Numbering {
    /// 1001, 1002 … in a row of ten.
    Udim,
    /// `u1_v1`, `u2_v1` …
    Uv,
}

impl<'a> TilePattern<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let around = |token| name.split_once(token);
        let udim = around("<UDIM>").or_else(|| around("1001"));
        udim.map(|(before, after)| Self { before, after, numbering: Numbering::Udim }).or_else(
            || {
                around("<UVTILE>").map(|(before, after)| Self {
                    before,
                    after,
                    numbering: Numbering::Uv,
                })
            },
        )
    }

    fn name(&self, number: i32) -> String {
        let Self { before, after, numbering } = self;
        let from_first = i64::from(number) - 1001;
        match numbering {
            Numbering::Udim => format!("{before}{number}{after}"),
            Numbering::Uv => {
                let (u, v) = (from_first.rem_euclid(10) + 1, from_first.div_euclid(10) + 1);
                format!("{before}u{u}_v{v}{after}")
            }
        }
    }

    fn matches(&self, name: &str) -> bool {
        let tile = name.strip_prefix(self.before).and_then(|rest| rest.strip_suffix(self.after));
        tile.is_some_and(|tile| match self.numbering {
            Numbering::Udim => tile.len() == 4 && is_number(tile),
            Numbering::Uv => {
                let parts = tile.strip_prefix('u').and_then(|rest| rest.split_once("_v"));
                parts.is_some_and(|(u, v)| is_number(u) && is_number(v))
            }
        })
    }
}

/// Those files beside a path whose names fit.
fn matching(stored: &Stored, limit: usize, fits: impl Fn(&str) -> bool) -> Found {
    let (Some(folder), Some(from)) = (stored.path.parent(), stored.as_written.parent()) else {
        return Found::none(Absence::Missing);
    };
    let from = if folder.is_dir() { folder } else { from };
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) => return Found::none(absence(&error)),
    };
    let mut files = Vec::new();
    let mut first_absence = None;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !fits(&text_of_name(&name)) {
            continue;
        }
        match look_for_media(&folder.join(&name), &from.join(&name)) {
            Ok(file) => files.push(file),
            Err(absence) => first_absence = first_absence.or(Some(absence)),
        }
        if files.len() > limit {
            break;
        }
    }
    match first_absence {
        Some(absence) if files.is_empty() => Found::none(absence),
        _ => {
            files.sort_by(|a, b| a.path.cmp(&b.path));
            Found::of(files, 0)
        }
    }
}

/// What Blender could use of a folder, and of those in it.
fn folder(stored: &Stored, limit: usize) -> Found {
    let from = stored.existing();
    match from.metadata() {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Found::none(Absence::NoFile("a file in the place of a folder")),
        Err(error) => return Found::none(absence(&error)),
    }
    let mut files = Vec::new();
    let mut folders = vec![(stored.path.clone(), from.to_owned(), 0)];
    while let Some((path, from, depth)) = folders.pop() {
        for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
            let name = entry.file_name();
            // Without a look at where a link leads: one to a folder could lead round and round.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let (path, from) = (path.join(&name), from.join(&name));
            if is_folder && depth < FOLDER_DEPTH_MAX {
                folders.push((path, from, depth + 1));
            } else if let Ok(file) = look_for_media(&path, &from) {
                files.push(file);
            }
            if files.len() > limit {
                return Found::of(files, 0);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Found::of(files, 0)
}

fn named(stored: &Stored, names: &[String], limit: usize) -> Found {
    let mut found = Found::default();
    let mut first_absence = None;
    for name in names.iter().take(limit.saturating_add(1)) {
        // A name, not a way to elsewhere.
        if name.contains(['/', '\\']) || matches!(name.as_str(), "" | "." | "..") {
            continue;
        }
        match look_for_media(&stored.path.join(name), &stored.existing().join(name)) {
            Ok(file) => found.files.push(file),
            Err(absence) => {
                found.lack(stored.path.join(name));
                first_absence = first_absence.or(Some(absence));
            }
        }
    }
    if found.files.is_empty() {
        found.absence = Some(first_absence.unwrap_or(Absence::Missing));
        found.missing = found.missing.max(1);
    }
    found
}

/// Whether a folder contains a baked simulation of geometry nodes, or a fluid.
pub(crate) fn has_bake(folder: &Path) -> bool {
    let entries = |name| fs::read_dir(folder.join(name)).into_iter().flatten().flatten();
    let is_of_nodes = |entry: fs::DirEntry| media::is_of_nodes_cache(&entry.path());
    // A fluid that was drawn once, and never played, leaves one file.
    entries("meta").take(BAKED_FRAMES_SEEN).any(is_of_nodes) || entries("data").nth(1).is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        folder
    }

    fn names(folder: &Path, path: &str, files: &Files) -> (Vec<String>, usize) {
        let found = find(&Stored::read(path, folder), files, ReferenceKind::Image, 1_000);
        let name = |file: &Needed| file.path.strip_prefix(folder).unwrap().display().to_string();
        (found.files.iter().map(name).collect(), found.missing)
    }

    #[test]
    fn a_row_of_pictures_is_all_that_differs_in_the_last_number() {
        let folder = folder_with(&[
            "s2_0001.png",
            "s2_0002.png",
            "s2_00010.png",
            "s2_a.png",
            "s2_0001.jpg",
            "s3_0001.png",
            "s2_0001.png.txt",
        ]);
        let row = Files::Sequence { first: None, frames: None };
        let found = names(folder.path(), "//s2_0001.png", &row);
        assert_eq!(found.0, ["s2_0001.png", "s2_00010.png", "s2_0002.png"]);
        assert_eq!(names(folder.path(), "//s2_a.png", &row).0, ["s2_a.png"]);
        assert_eq!(names(folder.path(), "//gone_0001.png", &row), (Vec::new(), 1));
    }

    #[test]
    fn the_number_of_a_name_is_its_last() {
        assert_eq!(around_number("a1b22.png"), Some(("a1b", ".png")));
        assert_eq!(around_number("0001.exr"), Some(("", ".exr")));
        assert_eq!(around_number("é7_x.mp4"), Some(("é", "_x.mp4")));
        assert_eq!(around_number("none.jp2"), None);
    }

    #[test]
    fn tiles_are_found_in_each_of_their_namings() {
        let folder =
            folder_with(&["w.1001.png", "w.1002.png", "w.1011.png", "v_u1_v1.png", "v_u1_v2.png"]);
        let tiles = Files::Tiles { numbers: vec![1001, 1011, 1021] };
        let found = names(folder.path(), "//w.<UDIM>.png", &tiles);
        assert_eq!(found, (vec!["w.1001.png".into(), "w.1011.png".into()], 1));
        assert_eq!(names(folder.path(), "//w.1001.png", &tiles).0.len(), 2);
        let found = names(folder.path(), "//v_<UVTILE>.png", &tiles);
        assert_eq!(found.0, ["v_u1_v1.png", "v_u1_v2.png"]);
        let all = Files::Tiles { numbers: Vec::new() };
        assert_eq!(names(folder.path(), "//w.<UDIM>.png", &all).0.len(), 3);
    }

    #[test]
    fn of_a_folder_only_what_blender_reads_is_taken() {
        let folder = folder_with(&[
            "c/data/f_0001.vdb",
            "c/config/c_0001.uni",
            "c/id_rsa",
            "c/x/y/z/a.bphys",
        ]);
        let found = names(folder.path(), "//c", &Files::Folder);
        assert_eq!(found.0, ["c/config/c_0001.uni", "c/data/f_0001.vdb", "c/x/y/z/a.bphys"]);
        let some = Files::Named(vec!["a.png".into(), "../../id_rsa".into()]);
        assert_eq!(names(folder.path(), "//c", &some), (Vec::new(), 1));
    }

    #[test]
    fn layers_of_usd_files_stay_together() {
        let folder = folder_with(&["shots/a/shot.usda", "shots/a/near.usda", "sets/room.usda"]);
        let shot = folder.path().join("shots/a/shot.usda");
        let layers =
            "#usda 1.0\n( subLayers = [ @near.usda@, @../../sets/room.usda@, @gone.usda@ ] )";
        fs::write(&shot, layers).unwrap();
        let stored = Stored::read("//shot.usda", &folder.path().join("shots/a"));
        let found = find(&stored, &Files::One, ReferenceKind::Cache, 1_000);
        let paths: Vec<_> = found.files.iter().map(|file| file.path.clone()).collect();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(paths, [shot, at("sets/room.usda"), at("shots/a/near.usda")]);
        assert_eq!(found.anchor.as_deref(), Some(folder.path()));
        assert_eq!((found.missing, found.lacking), (1, vec![at("shots/a/gone.usda")]));
        // An image is not parsed.
        let found = find(&stored, &Files::One, ReferenceKind::Image, 1_000);
        assert_eq!(found.files.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_unicode_is_found_alone_and_in_a_sequence() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"caf\xe9_1.png"[..], b"caf\xe9_2.png", b"caf\xe8_3.png"] {
            fs::write(folder.path().join(OsStr::from_bytes(name)), b"x").unwrap();
        }
        let stored = framecrew_blend::text_of_bytes(b"//caf\xe9_1.png");
        let row = Files::Sequence { first: None, frames: None };
        assert_eq!(names(folder.path(), &stored, &Files::One).0.len(), 1);
        assert_eq!(names(folder.path(), &stored, &row).0.len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_folders_in_the_place_of_a_file_are_never_opened() {
        let folder = folder_with(&["dir.png/x"]);
        let pipe = folder.path().join("pipe.png");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for name in ["//pipe.png", "//dir.png", "/dev/zero"] {
            let found =
                find(&Stored::read(name, folder.path()), &Files::One, ReferenceKind::Image, 10);
            assert!(matches!(found.absence, Some(Absence::NoFile(_))), "{name}: {found:?}");
        }
    }
}
