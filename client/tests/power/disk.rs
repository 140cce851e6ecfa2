//! A disk, as it may be found after its power was lost.
//!
//! What was synced is there. Of what was written since, any part may be: nothing, all, what came first, or any of its
//! sectors. A name is a thing of its own: it is durable when its folder was synced, which syncing the file does not do.
//! That is less than any file system promises, and all that POSIX does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// One thing that happened, in the order in which it did.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Unless it is there.
    Create(PathBuf),
    MakeFolder(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Change(PathBuf, Change),
    Sync(PathBuf),
    SyncAll,
    /// Somebody was told something.
    Acknowledged(String),
}

impl Step {
    pub(crate) fn is_told(&self) -> bool {
        matches!(self, Self::Acknowledged(_))
    }
}

/// What is done to the bytes of a file.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write(usize, Vec<u8>),
    Size(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Size(size) => bytes.resize(*size, 0),
            Self::Write(offset, data) => {
                bytes.resize(bytes.len().max(offset + data.len()), 0);
                bytes[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }

    /// As the disk takes it: sector by sector.
    fn sectors(&self) -> Vec<Self> {
        let Self::Write(offset, data) = self else { return vec![self.clone()] };
        let (mut from, mut sectors) = (0, Vec::new());
        while from < data.len() {
            let to = data.len().min(from + SECTOR_BYTES - (offset + from) % SECTOR_BYTES);
            sectors.push(Self::Write(offset + from, data[from..to].to_vec()));
            from = to;
        }
        sectors
    }
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Folder,
    /// Its place among all files.
    File(usize),
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    since: Vec<Change>,
}

/// Names that are changed at once; `None`: gone.
type Naming = Vec<(PathBuf, Option<Entry>)>;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    /// As processes see them.
    names: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    /// By folder.
    since: BTreeMap<PathBuf, Vec<Naming>>,
}

impl Disk {
    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(path) if self.names.contains_key(path) => {}
            Step::Create(path) => {
                self.files.push(File::default());
                self.name(vec![(path.clone(), Some(Entry::File(self.files.len() - 1)))]);
            }
            Step::MakeFolder(path) => self.name(vec![(path.clone(), Some(Entry::Folder))]),
            Step::Rename(from, to) => {
                assert_eq!(from.parent(), to.parent(), "such a name would change in two folders");
                let entry = self.names[from];
                self.name(vec![(from.clone(), None), (to.clone(), Some(entry))]);
            }
            Step::Remove(path) => self.name(vec![(path.clone(), None)]),
            // A file that has no name any more is lost with its process.
            Step::Change(path, change) => {
                if let Some(Entry::File(file)) = self.names.get(path) {
                    self.files[*file].since.push(change.clone());
                }
            }
            Step::Sync(path) => match self.names.get(path) {
                Some(Entry::File(file)) => self.files[*file].sync(),
                _ => self.sync_names(path),
            },
            Step::SyncAll => {
                self.files.iter_mut().for_each(File::sync);
                for folder in self.since.keys().cloned().collect::<Vec<_>>() {
                    self.sync_names(&folder);
                }
            }
            Step::Acknowledged(_) => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        rename(&mut self.names, &naming);
        let folder = naming[0].0.parent().unwrap().to_owned();
        self.since.entry(folder).or_default().push(naming);
    }

    fn sync_names(&mut self, folder: &Path) {
        for naming in self.since.remove(folder).unwrap_or_default() {
            rename(&mut self.durable, &naming);
        }
    }

    /// Writes to `root` what may be found when the power is lost now.
    pub(crate) fn lose_power(&self, root: &Path, rng: &mut Rng) {
        let mut names = self.durable.clone();
        for changes in self.since.values() {
            some(changes, rng).iter().for_each(|naming| rename(&mut names, naming));
        }
        // Sorted: a folder comes before what is in it, which is lost with it.
        for (path, entry) in names {
            let at = root.join(path);
            match entry {
                _ if !at.parent().unwrap().is_dir() => {}
                Entry::Folder => fs::create_dir(at).unwrap(),
                Entry::File(file) => {
                    let File { durable, since } = &self.files[file];
                    let mut bytes = durable.clone();
                    let sectors: Vec<_> = since.iter().flat_map(Change::sectors).collect();
                    some(&sectors, rng).iter().for_each(|change| change.apply(&mut bytes));
                    fs::write(at, bytes).unwrap();
                }
            }
        }
    }
}

impl File {
    fn sync(&mut self) {
        for change in self.since.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, Entry>, naming: &Naming) {
    for (path, entry) in naming {
        match entry {
            Some(entry) => names.insert(path.clone(), *entry),
            None => names.remove(path),
        };
    }
}

/// What a disk may have got to of all that it was given: nothing, all, what came first, or any of it.
fn some<T: Clone>(all: &[T], rng: &mut Rng) -> Vec<T> {
    match rng.u8(0..6) {
        0 => Vec::new(),
        1 => all.to_vec(),
        2 | 3 => all[..rng.usize(0..=all.len())].to_vec(),
        _ => all.iter().filter(|_| rng.bool()).cloned().collect(),
    }
}
