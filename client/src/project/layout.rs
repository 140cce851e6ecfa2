//! Where each file of a project goes, and which paths must be changed for that.
//!
//! Whatever lies in the project's root keeps its place, so that relative paths lead from one to the other as they
//! do here. What lies elsewhere goes to `framecrew-outside/`, beside what lay beside it. Then every path that does
//! not lead to its file already is replaced by a relative one that does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use framecrew_blend::{Field, Files, byte_of};
use framecrew_blobs::{Digest, PathFault, ProjectPath, check_paths};
use framecrew_proto::limits::FILES_MAX;

use super::{
    collection::{Blend, Collection, Entry, fault},
    files::Needed,
    stored::{StoredAs, follow, relative, text_of_name},
};
use crate::error::Error;

/// How many folders above the .blend's the root may lie. What a relative path finds further up, like
/// `//../../../../../../../../../etc/a.png`, is outside.
const ASCENT_MAX: usize = 8;

/// Folder of the project for what lies outside its root.
const OUTSIDE: &str = "framecrew-outside";

/// Digits of the hash that stands for a folder outside: enough to keep some thousand folders apart.
const OUTSIDE_DIGITS: usize = 12;

/// Paths named in one sentence.
const NAMED_MAX: usize = 3;

/// A file of the project, as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    /// Its path in the project.
    pub(crate) place: String,
    /// Where it is here.
    pub(crate) source: PathBuf,
    /// Its size in bytes, before it is rewritten.
    pub(crate) size_bytes: u64,
    /// What is changed in it on the way, if it is a .blend.
    pub(crate) texts: Vec<(Field, String)>,
    /// The text that is sent in its place.
    pub(crate) other_text: Option<String>,
}

/// A project as it is laid out.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The deepest folder that holds the .blend and all that it and its libraries refer to by relative paths.
    pub(crate) root: PathBuf,
    /// The .blend.
    pub(crate) blend: PathBuf,
    /// The place of the .blend.
    pub(crate) blend_place: String,
    /// All files, by place.
    pub(crate) files: Vec<Placed>,
}

impl Layout {
    /// Lays out what was collected. Blocks.
    pub(crate) fn of(collection: &Collection, follow_links: bool) -> Result<Self, Error> {
        let root = root(collection);
        let ground = Ground { root };
        let main = collection.main();
        let places = blend_places(collection, &ground);
        let mut plan = Plan { file: &main.path, files: BTreeMap::new() };
        for (blend, place) in collection.blends.iter().zip(&places) {
            plan.put(place.clone(), &blend.path)?;
        }
        let mut texts: Vec<Vec<(Field, String)>> = vec![Vec::new(); collection.blends.len()];
        let mut links = Links::new(&ground.root);
        // What many data blocks share is one thing.
        let mut seen = HashSet::new();
        for entry in &collection.entries {
            if !seen.insert(Arc::as_ptr(&entry.found)) {
                continue;
            }
            let anchor = entry.anchor();
            for file in &entry.found.files {
                if !follow_links {
                    links.check(file)?;
                }
                let place = match entry.library {
                    Some(library) => places[library].clone(),
                    None => ground.place(anchor, &file.path),
                };
                plan.put_needed(place, file)?;
            }
        }
        let same = plan.unite_case()?;
        for entry in entries_there(collection) {
            let from = &places[entry.wanted_by];
            let to = target(entry, &places, &ground);
            let to = same.get(&to).cloned().unwrap_or(to);
            // A file that Blender finds next to another one by its name follows that file.
            let follows = entry.reference.is_optional && entry.reference.field.capacity() == 0;
            if !follows && !leads_to(from, entry, &to) {
                let wanted_by = &collection.blends[entry.wanted_by];
                texts[entry.wanted_by].push(change(entry, wanted_by, relative(from, &to))?);
            }
        }
        for (place, texts) in places.iter().zip(texts) {
            if let Some(placed) = plan.files.get_mut(place) {
                placed.texts = texts;
            }
        }
        if plan.files.len() > FILES_MAX {
            return Err(fault(
                &main.path,
                "needs more than 100,000 files, the most that a project may have",
            ));
        }
        Ok(Self {
            root: ground.root,
            blend: main.path.clone(),
            blend_place: places.into_iter().next().unwrap_or_default(),
            files: plan.files.into_values().collect(),
        })
    }

    /// Adds files that the .blend does not name, in separate folders.
    pub(crate) fn add(&mut self, files: Vec<Placed>) -> Result<(), Error> {
        for file in &files {
            let folder = file.place.split('/').next().unwrap_or_default();
            let is_taken = |placed: &Placed| placed.place.split('/').next() == Some(folder);
            if let Some(taken) = self.files.iter().find(|placed| is_taken(placed)) {
                return Err(fault(
                    &self.blend,
                    format!(
                        "needs {}, in whose folder Framecrew puts files of its own; rename that folder",
                        taken.source.display()
                    ),
                ));
            }
            if let Err(error) = file.place.parse::<ProjectPath>() {
                let reason = format!("has a name that not every system allows: {error}");
                return Err(fault(&file.source, reason));
            }
        }
        self.files.extend(files);
        self.files.sort_by(|a, b| a.place.cmp(&b.place));
        Ok(())
    }

    /// The size of all files in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Whether something lies outside the root.
    pub(crate) fn is_outside(&self, path: &Path) -> bool {
        !path.starts_with(&self.root)
    }
}

fn entries_there(collection: &Collection) -> impl Iterator<Item = &Entry> {
    collection.entries.iter().filter(|entry| !entry.found.files.is_empty())
}

/// Whether the path of an entry, stored in the .blend at the place `from`, leads to a place by itself.
fn leads_to(from: &str, entry: &Entry, to: &str) -> bool {
    if entry.stored.stored_as != StoredAs::Relative {
        return false;
    }
    // A name that is not Unicode gets another name in the project.
    if entry.reference.raw_path.is_some() {
        return false;
    }
    let Some(place) = follow(from, &entry.reference.path) else { return false };
    // Blender makes some paths up from the name of the .blend, as it is there.
    let is_made_up = entry.reference.field.capacity() == 0;
    place == to || (is_made_up && portable(Path::new(&place)) == to)
}

/// Where the path of an entry must lead: to its file, or to what stands for its files.
fn target(entry: &Entry, places: &[String], ground: &Ground) -> String {
    if let Some(library) = entry.library {
        return places[library].clone();
    }
    ground.place(entry.anchor(), &entry.stored.path)
}

fn change(entry: &Entry, wanted_by: &Blend, text: String) -> Result<(Field, String), Error> {
    let field = entry.reference.field;
    // A folder keeps its last slash: what Blender puts behind it is a name.
    let slash = if is_folder(&entry.reference.files) { "/" } else { "" };
    let ends_with_slash = entry.reference.path.ends_with(['/', '\\']);
    let text = if ends_with_slash { text + slash } else { text };
    if text.len() > field.capacity() {
        return Err(fault(
            &wanted_by.path,
            format!(
                "refers to `{}` ({}), for which it would need the path `{text}` on other machines, but it has only {} \
                 bytes for it; move the file nearer to the .blend, or shorten names",
                entry.reference.path,
                entry.reference.owner,
                field.capacity()
            ),
        ));
    }
    Ok((field, text))
}

fn is_folder(files: &Files) -> bool {
    matches!(files, Files::Folder | Files::Named(_))
}

fn blend_places(collection: &Collection, ground: &Ground) -> Vec<String> {
    let place =
        |blend: &Blend| ground.place(blend.path.parent().unwrap_or(&blend.path), &blend.path);
    collection.blends.iter().map(place).collect()
}

/// The deepest folder that holds the .blend and all that is reached from it over relative paths, unless that is too
/// far up.
fn root(collection: &Collection) -> PathBuf {
    let main = &collection.main().path;
    let folder = main.parent().unwrap_or(main);
    // Libraries of libraries come in any order.
    let mut is_beside = vec![false; collection.blends.len()];
    is_beside[0] = true;
    let mut root = folder.to_owned();
    loop {
        let before = (is_beside.clone(), root.clone());
        for entry in entries_there(collection) {
            let is_ours =
                is_beside[entry.wanted_by] && entry.stored.stored_as != StoredAs::Absolute;
            let path = &entry.stored.path;
            if !is_ours && !path.starts_with(&root) {
                continue;
            }
            // Layers may be further up than the file that names them.
            let path = entry.found.anchor.as_ref().unwrap_or(path);
            if let Some(shared) = shared_folder(&root, path, folder) {
                root = shared;
                if let Some(library) = entry.library {
                    is_beside[library] = true;
                }
            }
        }
        if (&is_beside, &root) == (&before.0, &before.1) {
            return root;
        }
    }
}

/// The folder of `root` and its parents that holds `path`, if that is not too far above `folder`.
fn shared_folder(root: &Path, path: &Path, folder: &Path) -> Option<PathBuf> {
    let shared = root.ancestors().find(|ancestor| path.starts_with(ancestor))?;
    let ascent = folder.components().count() - shared.components().count();
    // The root of a disk holds everything.
    (shared.parent().is_some() && ascent <= ASCENT_MAX).then(|| shared.to_owned())
}

/// What tells where a file goes.
struct Ground {
    root: PathBuf,
}

impl Ground {
    /// The place of a file, or of what stands for files; `anchor` is the folder that holds it with all that must
    /// stay beside it.
    fn place(&self, anchor: &Path, path: &Path) -> String {
        let inside = path.strip_prefix(&self.root).ok().map(portable);
        if let Some(inside) = inside.filter(|place| place.parse::<ProjectPath>().is_ok()) {
            return inside;
        }
        let digest = Digest::of(anchor.as_os_str().as_encoded_bytes()).to_string();
        let name = portable(path.strip_prefix(anchor).unwrap_or(path));
        format!("{OUTSIDE}/{}/{name}", &digest[..OUTSIDE_DIGITS])
    }
}

/// A relative path as every system takes it.
fn portable(path: &Path) -> String {
    let part = |part: &OsStr| {
        let text = text_of_name(part);
        let mut portable = String::with_capacity(text.len());
        for character in text.chars() {
            match byte_of(character) {
                // Escaped as in URLs, so that different names stay different.
                Some(byte) => portable.push_str(&format!("%{byte:02X}")),
                None if matches!(character, ':' | '\\') || character.is_control() => {
                    portable.push('_');
                }
                None => portable.push(character),
            }
        }
        portable
    };
    path.iter().map(part).collect::<Vec<_>>().join("/")
}

/// The files so far.
struct Plan<'a> {
    file: &'a Path,
    files: BTreeMap<String, Placed>,
}

impl Plan<'_> {
    fn put(&mut self, place: String, blend: &Path) -> Result<(), Error> {
        let size_bytes = blend.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        self.insert(place, blend, size_bytes)
    }

    fn put_needed(&mut self, place: String, file: &Needed) -> Result<(), Error> {
        self.insert(place, file.source(), file.size_bytes)
    }

    fn insert(&mut self, place: String, source: &Path, size_bytes: u64) -> Result<(), Error> {
        if let Some(there) = self.files.get(&place) {
            if there.source == source || is_same(&there.source, source) {
                return Ok(());
            }
            return Err(fault(
                self.file,
                format!(
                    "needs both {} and {}, which would have the same name on other machines; rename one of them, \
                     without : and \\",
                    there.source.display(),
                    source.display()
                ),
            ));
        }
        let placed = Placed {
            place: place.clone(),
            source: source.into(),
            size_bytes,
            texts: Vec::new(),
            other_text: None,
        };
        self.files.insert(place, placed);
        Ok(())
    }

    /// Makes one of files that are the same here, where case does not count; gives which place took the place of
    /// which.
    fn unite_case(&mut self) -> Result<HashMap<String, String>, Error> {
        let mut same = HashMap::new();
        let mut different = Vec::new();
        let mut by_key = HashMap::<String, &Placed>::new();
        let faults = check_paths(self.files.keys().map(String::as_str));
        if faults.is_empty() {
            return Ok(same);
        }
        for placed in self.files.values() {
            let Some(first) = by_key.insert(placed.place.to_lowercase(), placed) else { continue };
            if is_same(&first.source, &placed.source) {
                same.insert(placed.place.clone(), first.place.clone());
                by_key.insert(first.place.to_lowercase(), first);
            } else {
                different.push((first, placed));
            }
        }
        if let Some((a, b)) = different.first() {
            return Err(fault(
                self.file,
                format!(
                    "needs both {} and {}, whose paths differ only in case, so that not every machine can have both; \
                     rename one of them",
                    a.source.display(),
                    b.source.display()
                ),
            ));
        }
        for place in same.keys() {
            self.files.remove(place);
        }
        let places: Vec<&String> = self.files.keys().collect();
        let faults = check_paths(places.iter().map(|place| place.as_str()));
        let mut named =
            faults.iter().take(NAMED_MAX).map(|(n, fault)| format!("`{}` {fault}", places[*n]));
        let Some(first) = named.next() else { return Ok(same) };
        let all = named.fold(first, |all, one| format!("{all}; {one}"));
        let advice = match faults[0].1 {
            PathFault::Invalid(_) => "rename it",
            _ => "rename one of the two",
        };
        Err(fault(self.file, format!("needs what not every machine can have: {all}; {advice}")))
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// Finds links that lead out of the project.
struct Links<'a> {
    root: &'a Path,
    root_itself: Option<PathBuf>,
    /// Whether what a folder really is lies in the root.
    folders: HashMap<PathBuf, bool>,
}

impl<'a> Links<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, root_itself: root.canonicalize().ok(), folders: HashMap::new() }
    }

    /// Nobody outside the project promised that its links stay anywhere, so only what lies in it is checked.
    fn check(&mut self, file: &Needed) -> Result<(), Error> {
        let source = file.source();
        let (Some(root), true) = (&self.root_itself, file.path.starts_with(self.root)) else {
            return Ok(());
        };
        let folder = source.parent().unwrap_or(source);
        let holds = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(root));
        let folder_is_inside = match self.folders.get(folder) {
            Some(is_inside) => *is_inside,
            None => {
                let is_inside = holds(folder);
                self.folders.insert(folder.into(), is_inside);
                is_inside
            }
        };
        if folder_is_inside && (!file.is_link || holds(source)) {
            return Ok(());
        }
        let mut way: Vec<&Path> = source.ancestors().collect();
        way.reverse();
        let leads_out =
            |path: &&&Path| path.starts_with(self.root) && path.is_symlink() && !holds(path);
        let link = way.iter().find(leads_out).copied().unwrap_or(source);
        let target = link.canonicalize().unwrap_or_else(|_| link.into());
        Err(fault(
            link,
            format!(
                "is a link that leads out of the project, to {}, while the project is {}; copy the file there, or \
                 submit with --follow-links",
                target.display(),
                self.root.display()
            ),
        ))
    }
}
