//! Everything a .blend needs: what it refers to, what its libraries refer to, and so on.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use framecrew_blend::{
    BlendError, BlockId, Drawn, Files, Hazard, Numbering, Reference, ReferenceKind, Sight, Survey,
};

use framecrew_proto::limits::FILES_MAX;

use super::{
    files::{self, Absence, Found},
    shaders,
    stored::{Stored, clean},
};
use crate::error::Error;

/// .blend files of a project: ten times those of a film's largest sets. Each is read.
const BLENDS_MAX: usize = 2_000;

/// Libraries of libraries: far more than anybody can follow.
const DEPTH_MAX: usize = 64;

/// A .blend of a project.
#[derive(Debug, Clone)]
pub(crate) struct Blend {
    /// Where it is looked for: an absolute path without `..`.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) survey: Survey,
    /// Over how many libraries it is reached.
    depth: usize,
}

/// Something a .blend refers to.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Which of the .blend files refers to it.
    pub(crate) wanted_by: usize,
    /// As it says so.
    pub(crate) reference: Reference,
    /// Where it is looked for.
    pub(crate) stored: Stored,
    /// What is there.
    pub(crate) found: Arc<Found>,
    /// Whether anything that is drawn refers to it.
    pub(crate) is_drawn: bool,
    /// How the data blocks that are drawn number it, if it is a numbered sequence of files.
    pub(crate) numberings: Vec<Numbering>,
    /// Which of the .blend files it is, if it is one.
    pub(crate) library: Option<usize>,
}

impl Entry {
    /// The folder that contains its files, which must stay in the same place relative to each other.
    pub(crate) fn anchor(&self) -> &Path {
        let beside = || self.stored.path.parent().unwrap_or(&self.stored.path);
        self.found.anchor.as_deref().unwrap_or_else(beside)
    }
}

/// Everything a .blend needs.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    /// The .blend, then its libraries, each once.
    pub(crate) blends: Vec<Blend>,
    /// What they refer to, in their order.
    pub(crate) entries: Vec<Entry>,
    /// The scene to draw.
    pub(crate) scene: Option<BlockId>,
}

impl Collection {
    /// Reads the .blend `file` and collects everything that it refers to. `scene` is the scene to draw; empty
    /// stands for the active one. `view_layer` is the only view layer to draw, whether switched on or not; empty
    /// stands for those that are switched on. Blocks.
    pub(crate) fn of(file: &Path, scene: &str, view_layer: &str) -> Result<Self, Error> {
        let path = std::path::absolute(file).map_err(|error| unreadable(file, error))?;
        let path = clean(&path);
        let survey = read(file)?;
        let mut gathering = Gathering {
            file,
            collection: Self {
                blends: vec![Blend { path, survey, depth: 0 }],
                entries: Vec::new(),
                scene: None,
            },
            looked_for: HashMap::new(),
            paths: HashSet::new(),
        };
        let mut next = 0;
        while next < gathering.collection.blends.len() {
            gathering.follow(next)?;
            next += 1;
        }
        let mut collection = gathering.collection;
        collection.forget_baked();
        collection.scene = collection.main().survey.scene_block(scene);
        let sight =
            if view_layer.is_empty() { Sight::OfLayersThatAreOn } else { Sight::OfAllLayers };
        collection.forget_undrawn(sight);
        Ok(collection)
    }

    /// Drops the hazards of geometry nodes simulations whose bakes are on the disk.
    fn forget_baked(&mut self) {
        for Blend { path, survey, .. } in &mut self.blends {
            let folder = path.parent().unwrap_or(path);
            survey.forget_baked(|stored| files::has_bake(Stored::read(stored, folder).existing()));
        }
    }

    /// Ignores missing files and hazards of data blocks that are not drawn. Existing files of theirs are still
    /// sent.
    fn forget_undrawn(&mut self, sight: Sight) {
        let Some(drawn) = self.drawn(sight) else { return };
        for (blend, drawn) in self.blends.iter_mut().zip(&drawn) {
            blend.survey.keep_hazards(drawn);
        }
        let is_there = |entry: &Entry| entry.found.absence.is_none();
        self.entries.retain(|entry| is_there(entry) || !entry.reference.is_optional);
        for entry in &mut self.entries {
            let drawn = drawn.get(entry.wanted_by);
            let is_drawn = drawn.is_some_and(|drawn| drawn.contains(entry.reference.block));
            entry.is_drawn = is_drawn;
            let numberings = entry.reference.numberings.iter();
            let is_shown =
                |block: BlockId| drawn.is_some_and(|drawn| is_drawn && drawn.contains(block));
            let shown = numberings.filter(|(block, _)| is_shown(*block)).map(|(_, it)| *it);
            entry.numberings = shown.collect();
            entry.numberings.sort_unstable();
            entry.numberings.dedup();
            if !is_drawn && entry.found.is_missed() {
                entry.found = Arc::new(entry.found.unmissed());
            }
        }
    }

    /// Determines what is drawn of each .blend; `None` if there is no such scene.
    fn drawn(&self, sight: Sight) -> Option<Vec<Drawn>> {
        let is_library = |entry: &&Entry| entry.reference.kind == ReferenceKind::Library;
        let libraries: HashMap<(usize, BlockId), usize> = (self.entries.iter())
            .filter(is_library)
            .filter_map(|it| Some(((it.wanted_by, it.reference.block), it.library?)))
            .collect();
        let mut names: HashMap<usize, HashMap<&str, BlockId>> = HashMap::new();
        let mut drawn = vec![Drawn::default(); self.blends.len()];
        let mut next = vec![(0, self.scene?)];
        while let Some((blend, block)) = next.pop() {
            let sight = if blend == 0 { sight } else { Sight::All };
            let linked = self.blends[blend].survey.uses.draw(&mut drawn[blend], block, sight);
            for (library, name) in linked {
                let Some(there) = libraries.get(&(blend, library)).copied() else { continue };
                let names = names.entry(there);
                let names = names.or_insert_with(|| self.blends[there].survey.uses.by_name());
                next.extend(names.get(name).map(|block| (there, *block)));
            }
        }
        Some(drawn)
    }

    /// The .blend itself.
    pub(crate) fn main(&self) -> &Blend {
        // It is the first to be put there.
        &self.blends[0]
    }

    /// The hazards of everything that is drawn, which Blender itself does not report.
    pub(crate) fn hazards(&self) -> impl Iterator<Item = &Hazard> {
        self.blends.iter().flat_map(|blend| &blend.survey.hazards)
    }
}

struct Gathering<'a> {
    file: &'a Path,
    collection: Collection,
    /// The same things are referred to many times.
    looked_for: HashMap<(PathBuf, String), (Arc<Found>, Option<usize>)>,
    /// Of all files.
    paths: HashSet<PathBuf>,
}

impl Gathering<'_> {
    /// Goes after what one of the .blend files refers to.
    fn follow(&mut self, blend: usize) -> Result<(), Error> {
        let Blend { path, survey, depth } = &mut self.collection.blends[blend];
        let (folder, depth) = (path.parent().unwrap_or(path).to_owned(), *depth);
        for reference in std::mem::take(&mut survey.references) {
            // Its words are in the .blend, too.
            if reference.kind == ReferenceKind::Text || reference.path.is_empty() {
                continue;
            }
            let stored = Stored::read(reference.stored_path(), &folder);
            let (found, library) = self.look_for(&stored, &reference, depth)?;
            let mut numberings: Vec<_> = reference.numberings.iter().map(|(_, it)| *it).collect();
            numberings.sort_unstable();
            numberings.dedup();
            let entry = Entry {
                wanted_by: blend,
                reference,
                stored,
                found,
                is_drawn: true,
                numberings,
                library,
            };
            self.collection.entries.push(entry);
        }
        Ok(())
    }

    fn look_for(
        &mut self,
        stored: &Stored,
        reference: &Reference,
        depth: usize,
    ) -> Result<(Arc<Found>, Option<usize>), Error> {
        let key = match &reference.files {
            Files::Sequence { .. } => (files::row_of(&stored.as_written), "a row".to_owned()),
            other => (stored.as_written.clone(), format!("{other:?}")),
        };
        if let Some(known) = self.looked_for.get(&key) {
            return Ok(known.clone());
        }
        let mut found = files::find(stored, &reference.files, reference.kind, FILES_MAX);
        if reference.kind == ReferenceKind::ShaderScript {
            shaders::add_included(stored, &mut found);
        }
        let mut library = None;
        if reference.kind == ReferenceKind::Library && found.absence.is_none() {
            match self.library(stored, depth)? {
                Ok(number) => library = Some(number),
                Err(damage) => found.absence = Some(Absence::Damaged(damage.to_string())),
            }
        }
        self.paths.extend(found.files.iter().map(|file| file.path.clone()));
        if self.paths.len() > FILES_MAX {
            return Err(fault(
                self.file,
                "needs more than 100,000 files, the most that a project may have; bake caches into fewer, larger files \
                 (Alembic, OpenVDB), or split the scene",
            ));
        }
        let known = (Arc::new(found), library);
        self.looked_for.insert(key, known.clone());
        Ok(known)
    }

    /// The number of a library; a damaged one has none.
    fn library(
        &mut self,
        stored: &Stored,
        depth: usize,
    ) -> Result<Result<usize, BlendError>, Error> {
        let blends = &mut self.collection.blends;
        if let Some(known) = blends.iter().position(|blend| blend.path == stored.path) {
            return Ok(Ok(known));
        }
        let survey = match framecrew_blend::survey(stored.existing()) {
            Ok(survey) => survey,
            Err(error) => return Ok(Err(error)),
        };
        if depth == DEPTH_MAX || blends.len() == BLENDS_MAX {
            return Err(fault(
                self.file,
                "needs more than 2,000 libraries, or more than 64 in a row, one linked from the other; make some of \
                 them local in Blender",
            ));
        }
        blends.push(Blend { path: stored.path.clone(), survey, depth: depth + 1 });
        Ok(Ok(blends.len() - 1))
    }
}

/// Reads the .blend that was named.
fn read(file: &Path) -> Result<Survey, Error> {
    let metadata = file.metadata().map_err(|error| unreadable(file, error))?;
    if metadata.is_dir() {
        return Err(fault(file, "is a folder; name the .blend in it"));
    }
    if !metadata.is_file() {
        return Err(fault(file, "is a pipe or device; name a .blend on a disk"));
    }
    framecrew_blend::survey(file)
        .map_err(|error| fault(file, format!("cannot be rendered: {error}")))
}

/// Why a project cannot be rendered.
pub(super) fn fault(path: &Path, message: impl Into<String>) -> Error {
    Error::Project { path: path.into(), message: message.into(), source: None }
}

fn unreadable(file: &Path, error: std::io::Error) -> Error {
    let message = match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist; check the path of the .blend".to_owned(),
        _ => format!("cannot be read ({error}); check the path and its permissions"),
    };
    Error::Project { path: file.into(), message, source: Some(Box::new(error)) }
}
