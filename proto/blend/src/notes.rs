//! What each data block refers to, and what is hazardous about it.

mod hazards;
mod images;
mod objects;
mod scenes;

use std::collections::{HashMap, HashSet};

use crate::{
    BlendError, BlenderVersion, Files, Hazard, Numbering, Reference, ReferenceKind, Scene,
    bakes::{self, NodesModifier, Stored, Tree, Trees},
    byte_of, bytes_of_text,
    group::{Group, View},
    hazard::About,
    imports::{Import, Imports},
    needs::Gathered,
    reach::BlockList,
    reference::Field,
    uses::BlockId,
};

/// Scenes of a file.
pub(crate) const SCENES_MAX: usize = 1_000;

/// Paths of a file, of 1 KB each at most.
const REFERENCES_MAX: usize = 100_000;

/// Hazards of a file: nobody reads more, so more are not told.
const HAZARDS_MAX: usize = 1_000;

/// Objects in scenes, objects that are or may be cameras, particle systems, node trees and what they use, of each.
const LINKS_MAX: usize = 2_000_000;

/// Pictures of strips, tiles of images, bakes of modifiers, and the like, each as often as something refers to it:
/// in a file made for it, everything may refer to everything.
const PARTS_MAX: usize = 1_000_000;

/// The folder of caches, up to the name of the .blend.
pub(crate) const DISK_CACHES: &str = "//blendcache_";

/// What was found so far.
pub(crate) struct Notes {
    saved_by: BlenderVersion,
    /// With their addresses, and those of the objects in them.
    pub(crate) scenes: Vec<(u64, Scene, SceneLinks)>,
    pub(crate) references: Vec<Reference>,
    pub(crate) hazards: Vec<Hazard>,
    /// The subject of each hazard.
    pub(crate) hazards_about: Vec<About>,
    pub(crate) blocks: BlockList,
    /// The current data block.
    block: BlockId,
    /// The names of cameras, and of what lies in libraries and may be one.
    cameras: HashMap<u64, Linked>,
    /// Particle settings by address: whether their particles fly, and whether they are hair.
    particles: HashMap<u64, Particles>,
    /// Of objects, which settings they use.
    particle_systems: Vec<ParticleSystem>,
    trees: Trees,
    /// Modifiers that are not baked in the file: their owner, their tree.
    node_modifiers: Vec<NodesModifier>,
    libraries: Vec<Library>,
    pub(crate) needs: Gathered,
    imports: Imports,
    /// The users of images and their numberings, by the address of the image.
    image_users: Vec<(u64, (BlockId, Numbering))>,
    /// Whether a scene remaps time.
    remaps_time: bool,
    /// Image sequences: the address of the image and the index of its reference.
    image_rows: Vec<(u64, usize)>,
    links: usize,
    parts: usize,
}

/// Another .blend.
struct Library {
    /// Data blocks used of it: they follow it in the file.
    uses: usize,
    /// Its place among the references.
    reference: usize,
}

/// Addresses in a scene.
pub(crate) struct SceneLinks {
    pub(crate) block: BlockId,
    camera: Option<u64>,
    objects: Vec<u64>,
}

struct Linked {
    name: String,
    is_camera: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Particles {
    Still,
    Flying,
    Hair,
}

struct ParticleSystem {
    block: BlockId,
    owner: String,
    settings: u64,
    has_hair_dynamics: bool,
}

impl Notes {
    pub(crate) fn new(saved_by: BlenderVersion) -> Self {
        Self {
            saved_by,
            scenes: Vec::new(),
            references: Vec::new(),
            hazards: Vec::new(),
            hazards_about: Vec::new(),
            blocks: BlockList::new(saved_by),
            block: BlockId::FIRST,
            cameras: HashMap::new(),
            particles: HashMap::new(),
            particle_systems: Vec::new(),
            trees: Trees::new(),
            node_modifiers: Vec::new(),
            libraries: Vec::new(),
            needs: Gathered::default(),
            imports: Imports::default(),
            image_users: Vec::new(),
            remaps_time: false,
            image_rows: Vec::new(),
            links: 0,
            parts: 0,
        }
    }

    /// Takes what one data block says.
    pub(crate) fn group(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        self.block = self.blocks.take(group)?;
        match &group.code {
            b"SC" => self.scene(group)?,
            b"OB" => self.object(group)?,
            b"LI" => self.library(group)?,
            b"IM" => self.image(group)?,
            b"VF" => self.packable(ReferenceKind::Font, group)?,
            b"SO" => self.packable(ReferenceKind::Sound, group)?,
            b"MC" => self.movie_clip(group)?,
            b"CF" => self.cache_file(group)?,
            b"VO" => self.volume(group)?,
            b"TX" => self.text(group)?,
            b"PA" => self.particle_settings(group)?,
            b"NT" => self.tree(group)?,
            b"ID" => self.linked(group)?,
            b"ME" => {
                for external in group.all("CustomDataExternal") {
                    let path = external.path("filename");
                    self.refer(ReferenceKind::Displacement, group.name(), path, Files::One)?;
                }
            }
            _ => {}
        }
        self.shader_nodes(group)?;
        self.image_users(group)?;
        self.drivers(group);
        self.needs.group(group);
        Ok(())
    }

    /// Takes together what lay in different data blocks.
    pub(crate) fn finish(&mut self) -> Result<(), BlendError> {
        self.number_images();
        self.forget_idle_libraries();
        self.imported()?;
        for (address, scene, links) in &mut self.scenes {
            self.needs.complete(*address, &mut scene.needs);
            let name = |address: &u64| self.cameras.get(address);
            scene.camera = links.camera.as_ref().and_then(name).map(|linked| linked.name.clone());
            let objects = links.objects.iter().filter_map(name);
            let cameras = objects.filter(|linked| linked.is_camera).map(|linked| &linked.name);
            scene.cameras = cameras.chain(&scene.camera).cloned().collect();
            scene.cameras.sort_unstable();
            scene.cameras.dedup();
        }
        for system in std::mem::take(&mut self.particle_systems) {
            // What lies in a library is not known; it is more often hair.
            let particles = self.particles.get(&system.settings).unwrap_or(&Particles::Hair);
            let what = match particles {
                Particles::Flying => "particle system",
                Particles::Hair if system.has_hair_dynamics => "hair simulation",
                Particles::Hair | Particles::Still => continue,
            };
            self.block = system.block;
            self.hazard(Hazard::UnbakedSimulation { owner: system.owner, what });
        }
        let trees = std::mem::take(&mut self.trees);
        let simulating = bakes::simulating(&trees);
        for modifier in std::mem::take(&mut self.node_modifiers) {
            if !simulating.contains(&modifier.tree) {
                continue;
            }
            if let Stored::InFolders(folders) = bakes::stored(&modifier, &trees) {
                self.block = modifier.block;
                let (owner, what) = (modifier.owner, "simulation of geometry nodes");
                self.hazard_unless(folders, Hazard::NotSimulated { owner, what });
            }
        }
        Ok(())
    }

    fn imported(&mut self) -> Result<(), BlendError> {
        let mut told = HashSet::new();
        for Import { block, owner, path } in std::mem::take(&mut self.imports).finish() {
            self.block = block;
            if path.is_some() {
                self.refer(ReferenceKind::Import, owner, path, Files::One)?;
            } else if told.insert(block) {
                self.hazard(Hazard::ComputedPath { owner });
            }
        }
        Ok(())
    }

    fn library(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        self.link(1)?;
        self.libraries.push(Library { uses: 0, reference: self.references.len() });
        // Since Blender 5.0 what is used of a library can be packed, as if it came from another library of that name.
        if group.id().pointer("archive_parent_library").is_some() {
            return Ok(());
        }
        self.packable(ReferenceKind::Library, group)
    }

    /// Blender opens no library of which nothing is used, like one of which all that is used is packed.
    fn forget_idle_libraries(&mut self) {
        let idle = self.libraries.iter().filter(|library| library.uses == 0);
        let idle: HashSet<_> = idle.map(|library| library.reference).collect();
        let mut index = 0..;
        self.references.retain(|reference| {
            let is_idle = index.next().is_some_and(|index| idle.contains(&index));
            !is_idle || reference.kind != ReferenceKind::Library
        });
    }

    fn tree(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let tree = Tree::of(group);
        self.link(1 + tree.groups.len())?;
        self.imports.tree(group, self.block);
        self.trees.insert(group.id().address, tree);
        Ok(())
    }

    /// A name of something that lies in a library.
    fn linked(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        if let Some(library) = self.libraries.last_mut() {
            library.uses += 1;
        }
        let id = group.id();
        if id.text("name").is_some_and(|name| name.starts_with("OB")) {
            self.link(1)?;
            self.cameras.insert(id.address, Linked { name: group.name(), is_camera: false });
        }
        Ok(())
    }

    fn refer(
        &mut self,
        kind: ReferenceKind,
        owner: String,
        path: Option<(String, Field)>,
        files: Files,
    ) -> Result<(), BlendError> {
        let Some((path, field)) = path else { return Ok(()) };
        // Blender makes `//../../` of an empty path when it makes all paths relative.
        let is_file = matches!(files, Files::One | Files::Sequence { .. } | Files::Tiles { .. });
        if is_file && kind != ReferenceKind::Library && path.ends_with(['/', '\\']) {
            return Ok(());
        }
        if self.references.len() == REFERENCES_MAX {
            return Err(BlendError::TooMany { what: "paths", limit: REFERENCES_MAX });
        }
        // Geometry nodes compute what is not baked. If that matters, a hazard is reported.
        let (block, is_optional) = (self.block, kind == ReferenceKind::NodesCache);
        let is_unicode = !path.chars().any(|character| byte_of(character).is_some());
        let (path, raw_path) = match is_unicode {
            true => (path, None),
            false => (String::from_utf8_lossy(&bytes_of_text(&path)).into_owned(), Some(path)),
        };
        self.references.push(Reference {
            kind,
            owner,
            path,
            raw_path,
            files,
            field,
            block,
            numberings: Vec::new(),
            cache_name: None,
            is_optional,
        });
        Ok(())
    }

    /// Marks the references since `since` as optional. Their owner is switched off, so a missing file is no loss.
    fn excuse(&mut self, since: usize) {
        for reference in self.references.iter_mut().skip(since) {
            reference.is_optional = true;
        }
    }

    fn hazard(&mut self, hazard: Hazard) {
        self.hazard_unless(Vec::new(), hazard);
    }

    /// Adds a hazard that does not apply if each list of folders has one with a bake.
    fn hazard_unless(&mut self, folders: Vec<Vec<String>>, hazard: Hazard) {
        if self.hazards.len() < HAZARDS_MAX {
            self.hazards.push(hazard);
            self.hazards_about.push(About { block: self.block, folders });
        }
    }

    fn part(&mut self, count: usize) -> Result<(), BlendError> {
        self.parts = self.parts.saturating_add(count);
        if self.parts > PARTS_MAX {
            return Err(BlendError::TooMany {
                what: "pictures of strips and images",
                limit: PARTS_MAX,
            });
        }
        Ok(())
    }

    fn link(&mut self, count: usize) -> Result<(), BlendError> {
        self.links = self.links.saturating_add(count);
        if self.links > LINKS_MAX {
            return Err(BlendError::TooMany { what: "objects", limit: LINKS_MAX });
        }
        Ok(())
    }
}

/// The struct that a member points to.
fn pointed<'g>(
    group: &'g Group<'_>,
    view: &View<'_>,
    member: &'static str,
    structure: &'static str,
) -> Option<View<'g>> {
    group.at(view.pointer(member)?, structure).next()
}
