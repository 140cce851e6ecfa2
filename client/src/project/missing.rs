//! Lists the missing files of a project, one line for each file or folder, the greatest loss first.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use framecrew_blend::{Files, ReferenceKind};

use super::{
    collection::{Collection, Entry},
    files::{Absence, Found},
    stored::StoredAs,
};
use crate::words;

/// Maximum number of lines about libraries, files and folders. The rest are only counted by kind.
const LINES_MAX: usize = 50;

/// From this number of missing files on, a line names their folder instead.
const FOLDER_FROM: usize = 4;

/// Maximum number of files that are named for one path.
const NAMED_MAX: usize = 3;

/// Maximum number of names in a folder that are searched for one that differs only in letter case.
const NAMES_MAX: usize = 10_000;

/// Extensions of sound files.
const SOUNDS: [&str; 14] = [
    "wav", "mp3", "ogg", "oga", "flac", "aac", "m4a", "ac3", "eac3", "aif", "aiff", "au", "wma",
    "opus",
];

/// What the picture loses when a file is missing, the greatest loss first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Library,
    Picture,
    Other,
    Letters,
    Sound,
}

impl Loss {
    fn of(kind: ReferenceKind, path: &str) -> Self {
        let ending = path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
        match kind {
            ReferenceKind::Library => Self::Library,
            ReferenceKind::Sound => Self::Sound,
            ReferenceKind::Strip if ending.is_some_and(|it| SOUNDS.contains(&&*it)) => Self::Sound,
            ReferenceKind::Image
            | ReferenceKind::Movie
            | ReferenceKind::MovieClip
            | ReferenceKind::Strip => Self::Picture,
            ReferenceKind::Font => Self::Letters,
            _ => Self::Other,
        }
    }

    fn counted(self, count: usize) -> String {
        let noun = match self {
            Self::Library if count == 1 => "library",
            Self::Library => return format!("{count} libraries"),
            Self::Picture => "picture",
            Self::Other => "file",
            Self::Letters => "font",
            Self::Sound => "sound",
        };
        words::plural(count as u64, noun)
    }
}

/// A missing path, merged from all references to it.
struct Lack<'a> {
    entry: &'a Entry,
    loss: Loss,
    /// The path as stored in the file, plus the name of the picture if a strip has only one.
    path: String,
    owners: usize,
}

/// Lists missing files with what refers to them.
pub(super) fn missing(collection: &Collection) -> Option<String> {
    let lines = lines(collection, &lacks(collection));
    let is_sound = |(loss, _): &&(Loss, String)| *loss == Loss::Sound;
    let sounds = lines.iter().filter(is_sound).count();
    // Frames are drawn without their sounds.
    let lack = match (sounds, lines.len()) {
        (1, 1) => "a sound is not there, so the movie will lack it",
        (sounds, all) if sounds == all => "sounds are not there, so the movie will lack them",
        (0, 1) => "a file is not there, so the frames will lack what they show",
        (0, _) => "files are not there, so the frames will lack what they show",
        _ => {
            "files are not there, so the frames will lack what they show, and the movie its sounds"
        }
    };
    let mut text = format!("{lack}:");
    for (_, line) in lines.iter().take(LINES_MAX) {
        text += "\n  ";
        text += &words::printable(line);
    }
    let mut more = BTreeMap::new();
    for (loss, _) in lines.iter().skip(LINES_MAX) {
        *more.entry(*loss).or_insert(0) += 1;
    }
    if !more.is_empty() {
        let counted = more.into_iter().map(|(loss, count)| loss.counted(count));
        let counted = counted.collect::<Vec<_>>().join(", ");
        text += &format!("\n  and more, which `framecrew inspect` lists: {counted}");
    }
    (!lines.is_empty()).then_some(text)
}

/// Collects each missing path once, however many data blocks share it.
fn lacks(collection: &Collection) -> Vec<Lack<'_>> {
    let mut lacks: Vec<Lack<'_>> = Vec::new();
    let mut known: BTreeMap<(usize, String, ReferenceKind), usize> = BTreeMap::new();
    for entry in &collection.entries {
        if !entry.found.is_missed() {
            continue;
        }
        let path = path(entry);
        let loss = Loss::of(entry.reference.kind, &path);
        // A strip and its sound name the same file.
        let kind = if loss == Loss::Sound { ReferenceKind::Sound } else { entry.reference.kind };
        let key = (entry.wanted_by, path.clone(), kind);
        if let Some(lack) = known.get(&key).and_then(|at| lacks.get_mut(*at)) {
            lack.owners += 1;
            continue;
        }
        known.insert(key, lacks.len());
        lacks.push(Lack { entry, loss, path, owners: 1 });
    }
    lacks
}

/// The path as stored in the file, plus the name of the picture if a strip has only one.
fn path(entry: &Entry) -> String {
    match &entry.reference.files {
        Files::Named(names) if names.len() == 1 => {
            let folder = &entry.reference.path;
            let slash = if folder.is_empty() || folder.ends_with(['/', '\\']) { "" } else { "/" };
            format!("{folder}{slash}{}", names[0])
        }
        _ => entry.reference.path.clone(),
    }
}

/// Returns the lines, sorted by loss, the greatest first, and then by path.
fn lines(collection: &Collection, lacks: &[Lack<'_>]) -> Vec<(Loss, String)> {
    let mut folders: BTreeMap<(Loss, &str, usize, String), Vec<&Lack<'_>>> = BTreeMap::new();
    let mut lines = Vec::new();
    for lack in lacks {
        let stands_alone =
            lack.loss == Loss::Library || lack.entry.found.absence.is_none() || many(lack) > 0;
        if stands_alone {
            lines.push((lack.loss, lack.path.clone(), alone(collection, lack)));
            continue;
        }
        let folder = lack.path.rfind(['/', '\\']).map_or("", |at| &lack.path[..=at]);
        let key = (lack.loss, folder, lack.entry.wanted_by, absence(lack));
        folders.entry(key).or_default().push(lack);
    }
    for ((loss, folder, wanted_by, why), of_it) in folders {
        if of_it.len() < FOLDER_FROM {
            let singles =
                of_it.iter().map(|lack| (loss, lack.path.clone(), alone(collection, lack)));
            lines.extend(singles);
            continue;
        }
        let (count, wanted_by) = (loss.counted(of_it.len()), name(collection, wanted_by));
        let names: Vec<_> = of_it.iter().take(2).map(|it| &it.path[folder.len()..]).collect();
        let folder = if folder.is_empty() { "no folder" } else { folder };
        let line =
            format!("{count} of `{folder}`, like {} (in {wanted_by}): {why}", names.join(" and "));
        lines.push((loss, folder.to_owned(), line));
    }
    lines.sort();
    let mut seen = HashSet::new();
    lines
        .into_iter()
        .map(|(loss, _, line)| (loss, line))
        .filter(|(_, line)| seen.insert(line.clone()))
        .collect()
}

/// Describes how many files the path stands for, if there are several.
fn many(lack: &Lack<'_>) -> usize {
    match &lack.entry.reference.files {
        Files::Named(names) if names.len() > 1 => names.len(),
        _ => 0,
    }
}

fn alone(collection: &Collection, lack: &Lack<'_>) -> String {
    let Lack { entry, loss, path, owners } = lack;
    let reference = &entry.reference;
    let more = match owners {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    let by = format!(
        "({} `{}`{more} in {})",
        reference.kind,
        reference.owner,
        name(collection, entry.wanted_by)
    );
    let is_part = entry.found.absence.is_none();
    match (many(lack), is_part) {
        (0, true) => {
            let lacks = words::plural(entry.found.missing as u64, "file");
            format!("{path} {by}: {lacks} of it missing{}", named(&entry.found))
        }
        (0, false) => {
            format!("{path} {by}: {}{}", absence(lack), hint(collection, entry).unwrap_or_default())
        }
        (all, _) => {
            let of_all = if is_part { format!(" (of {all})") } else { String::new() };
            let count = loss.counted(entry.found.missing);
            let named = if is_part { named(&entry.found) } else { String::new() };
            format!("{count}{of_all} of `{path}` {by}: {}{named}", absence(lack))
        }
    }
}

/// Names some of the missing files of a path, and a frame that shows the first of them.
fn named(found: &Found) -> String {
    let names = found.lacking.iter().take(NAMED_MAX);
    let names: Vec<_> = names.filter_map(|path| path.file_name()?.to_str()).collect();
    if names.is_empty() {
        return String::new();
    }
    let more = if found.missing > names.len() { " …" } else { "" };
    let frame = found.lacking_frames.first();
    let frame = frame.map(|frame| format!(", for frame {frame}")).unwrap_or_default();
    format!(": {}{more}{frame}", names.join(", "))
}

fn absence(lack: &Lack<'_>) -> String {
    lack.entry.found.absence.as_ref().unwrap_or(&Absence::Missing).to_string()
}

fn name(collection: &Collection, blend: usize) -> String {
    let path = &collection.blends[blend].path;
    path.file_name().map(Path::new).unwrap_or(path).display().to_string()
}

/// Suggests what a missing path may have meant.
fn hint(collection: &Collection, entry: &Entry) -> Option<String> {
    if !matches!(entry.found.absence, Some(Absence::Missing)) {
        return None;
    }
    let blend = &collection.blends[entry.wanted_by].path;
    let folder = blend.parent()?;
    let shown = |there: &Path| match there.strip_prefix(folder) {
        Ok(inside) => format!("//{}", inside.display()),
        Err(_) => there.display().to_string(),
    };
    let wanted = match &entry.reference.files {
        Files::Named(names) => entry.stored.path.join(names.first()?),
        _ => entry.stored.path.clone(),
    };
    if let Some(there) = in_other_case(&wanted) {
        return Some(format!("; `{}` is there, but letter case counts", shown(&there)));
    }
    if entry.stored.stored_as != StoredAs::Absolute {
        return None;
    }
    let there = beside(&wanted, folder)?;
    Some(format!(
        "; `{}` is there: if that is meant, let Blender find it (File > External Data > Find Missing Files)",
        shown(&there)
    ))
}

/// Returns a file whose path differs only in letter case, if there is one.
fn in_other_case(path: &Path) -> Option<PathBuf> {
    let mut at = PathBuf::new();
    for part in path.components() {
        let exact = at.join(part);
        // The root of the disk is not searched.
        at = if exact.symlink_metadata().is_ok() || part.as_os_str() == "/" {
            exact
        } else {
            let wanted = part.as_os_str().to_str()?.to_lowercase();
            let names = fs::read_dir(&at).ok()?.flatten().take(NAMES_MAX);
            let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
            at.join(names.find(|name| name.to_lowercase() == wanted)?)
        };
    }
    (at != path).then_some(at)
}

/// Looks in the folder of the .blend for the end of an absolute path from another machine, such as
/// `Textures/Wood.png` of `D:\film\Textures\Wood.png`.
fn beside(path: &Path, folder: &Path) -> Option<PathBuf> {
    let parts: Vec<_> = path.components().skip(1).collect();
    // Try the longest end first.
    (0..parts.len())
        .map(|from| parts[from..].iter().collect::<PathBuf>())
        .map(|end| folder.join(end))
        .find(|there| there.symlink_metadata().is_ok())
}
