//! What each data block refers to, and what is hazardous about it.

use std::collections::{HashMap, HashSet};

use crate::{
    BlendError, BlenderVersion, Files, Hazard, Numbering, Reference, ReferenceKind, Scene,
    bakes::{self, NodesModifier, Stored, Tree, Trees},
    byte_of, bytes_of_text,
    driver::needs_scripts,
    group::{Group, View},
    hazard::{About, FLUID},
    imports::{Import, Imports},
    needs::Gathered,
    numbering,
    reach::{BlockId, BlockList},
    reference::Field,
    strips::Strips,
};

/// Scenes of a file.
pub(crate) const SCENES_MAX: usize = 1_000;

/// Paths of a file, of 1 KB each at most.
const REFERENCES_MAX: usize = 100_000;

/// Hazards of a file: nobody reads more, so more are not told.
const HAZARDS_MAX: usize = 1_000;

/// Objects in scenes, objects that are or may be cameras, particle systems, node trees and what they use, of each.
const LINKS_MAX: usize = 2_000_000;

/// Variables of a driver.
const VARIABLES_MAX: usize = 1_000;

/// Pictures of strips, tiles of images, bakes of modifiers, and the like, each as often as something refers to it:
/// in a file made for it, everything may refer to everything.
const PARTS_MAX: usize = 1_000_000;

/// Maximum number of ways in which one sequence of files is numbered. Each is computed for every frame.
const NUMBERINGS_MAX: usize = 64;

/// Views of a scene.
const VIEWS_MAX: usize = 256;

/// The folder of caches, up to the name of the .blend.
pub(crate) const DISK_CACHES: &str = "//blendcache_";

/// `OB_CAMERA`.
const CAMERA: i32 = 11;

/// `eModifierMode_Render`.
const MODIFIER_RENDERED: u64 = 1 << 1;

/// `PTCACHE_BAKED`, `PTCACHE_DISK_CACHE`, `PTCACHE_EXTERNAL`.
const CACHE_BAKED: u64 = 1 << 0;
const CACHE_ON_DISK: u64 = 1 << 6;
const CACHE_EXTERNAL: u64 = 1 << 9;

/// `FLUID_DOMAIN_BAKED_DATA`.
const FLUID_BAKED: u64 = 1 << 1;

/// `PSYS_HAIR_DYNAMICS`.
const HAIR_DYNAMICS: u64 = 1 << 2;

/// `FCURVE_MUTED`.
const CURVE_MUTED: u64 = 1 << 4;

/// `TXT_ISSCRIPT`.
const TEXT_REGISTERED: u64 = 1 << 4;

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

    fn scene(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        if self.scenes.len() == SCENES_MAX {
            return Err(BlendError::TooMany { what: "scenes", limit: SCENES_MAX });
        }
        let scene = Scene::parse(group, self.saved_by);
        let scene = scene.ok_or(BlendError::Damaged("a scene of it makes no sense"))?;
        let objects: HashSet<_> =
            group.all("Base").filter_map(|base| base.pointer("object")).collect();
        self.link(objects.len())?;
        let links = SceneLinks {
            block: self.block,
            camera: group.id().pointer("camera"),
            objects: objects.into_iter().collect(),
        };
        self.scenes.push((group.id().address, scene, links));
        let render = group.id();
        self.remaps_time |= render.int("r.framapto") != render.int("r.images");
        self.strips(group)?;
        for world in group.all("RigidBodyWorld") {
            // `RBW_FLAG_MUTED`; without a collection nothing moves.
            if world.pointer("group").is_some() && !world.flag("flag", 1) {
                let shared = pointed(group, &world, "shared", "RigidBodyWorld_Shared");
                let cache = shared.and_then(|shared| shared.pointer("pointcache"));
                let cache = cache.or_else(|| world.pointer("pointcache"));
                self.simulation(group, group.name(), "rigid body world", cache)?;
            }
        }
        Ok(())
    }

    /// Of all scenes' strips, those in meta strips included: all belong to the scene.
    fn strips(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let is_off = !group.id().flag("r.scemode", crate::scene::USES_SEQUENCER);
        let strips = Strips::of(group);
        for strip in group.all("Sequence") {
            // `SEQ_TYPE_*`: a picture, a movie, two kinds of sound.
            let Some(kind @ (0 | 3 | 4 | 5)) = strip.int("type") else { continue };
            let Some(data) = pointed(group, &strip, "strip", "Strip") else { continue };
            let Some(elements) = data.pointer("stripdata") else { continue };
            let name = strip.text("name").unwrap_or_default();
            let owner = format!("{}/{}", group.name(), name.get(2..).unwrap_or_default());
            let folder = data.path_or_empty("dir");
            let Some((folder, field)) = folder else { continue };
            let before = self.references.len();
            if kind == 0 {
                let names = group.at(elements, "StripElem").filter_map(|it| it.text("name"));
                let names: Vec<_> = names.take(PARTS_MAX + 1).collect();
                self.part(names.len())?;
                let count = names.len();
                let names = names.into_iter().filter(|name| !name.is_empty());
                let names = view_names(group, &strip, names);
                self.part(names.len())?;
                // Only then the strip's numbers are those of the names.
                let is_numbered = names.len() == count && !has_views(&strip);
                if !names.is_empty() {
                    let files = Files::Named(names);
                    self.refer(ReferenceKind::Strip, owner, Some((folder, field)), files)?;
                    let numbering = Numbering::of_strip(group, &strips, &strip);
                    if let Some(numbering) = numbering.filter(|_| is_numbered)
                        && let Some(reference) = self.references.last_mut()
                    {
                        reference.numberings = vec![(self.block, numbering)];
                    }
                }
            } else if let Some(element) = group.at(elements, "StripElem").next()
                && let Some((file, name)) = element.path("name")
            {
                let slash =
                    if folder.is_empty() || folder.ends_with(['/', '\\']) { "" } else { "/" };
                let path = format!("{folder}{slash}{file}");
                let path = Some((path, field.with_name(name)));
                self.refer(ReferenceKind::Strip, owner, path, Files::One)?;
            }
            if is_off || strips.part(&strip).is_muted {
                self.excuse(before);
            }
        }
        Ok(())
    }

    fn object(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let (object, name) = (group.id(), group.name());
        if object.int("type") == Some(CAMERA) {
            self.link(1)?;
            self.cameras.insert(object.address, Linked { name: name.clone(), is_camera: true });
        }
        for modifier in group.all("MeshCacheModifierData") {
            let owner = part(&name, &modifier);
            let before = self.references.len();
            self.refer(ReferenceKind::MeshCache, owner, modifier.path("filepath"), Files::One)?;
            if !rendered(&modifier) {
                self.excuse(before);
            }
        }
        for modifier in group.all("OceanModifierData") {
            // What is not baked is computed for any frame.
            if modifier.flag("cached", u64::MAX) {
                let (owner, path) = (part(&name, &modifier), modifier.path("cachepath"));
                let before = self.references.len();
                self.refer(ReferenceKind::OceanCache, owner, path, Files::Folder)?;
                if !rendered(&modifier) {
                    self.excuse(before);
                }
            }
        }
        self.fluids(group, &name)?;
        self.soft_things(group, &name)?;
        self.particle_systems(group, &name)?;
        self.nodes_modifiers(group, &name)
    }

    fn fluids(&mut self, group: &Group<'_>, name: &str) -> Result<(), BlendError> {
        for modifier in group.all("FluidModifierData") {
            // `MOD_FLUID_TYPE_DOMAIN`.
            let Some(domain) = pointed(group, &modifier, "domain", "FluidDomainSettings") else {
                continue;
            };
            if !modifier.flag("type", 1) {
                continue;
            }
            let (owner, path) = (part(name, &modifier), domain.path("cache_directory"));
            let folder = path.as_ref().map(|(folder, _)| folder.clone());
            let before = self.references.len();
            self.refer(ReferenceKind::FluidCache, owner.clone(), path, Files::Folder)?;
            if domain.flag("cache_flag", FLUID_BAKED) {
                continue;
            }
            // It may never have been played.
            self.excuse(before);
            if rendered(&modifier) {
                let folders = folder.map(|folder| vec![vec![folder]]).unwrap_or_default();
                self.hazard_unless(folders, Hazard::NotSimulated { owner, what: FLUID });
            }
        }
        // Up to Blender 2.81, of which no other draws these simulations.
        for modifier in group.all("SmokeModifierData") {
            let domain = pointed(group, &modifier, "domain", "SmokeDomainSettings");
            if let Some(domain) = domain.filter(|_| modifier.flag("type", 1)) {
                let owner = part(name, &modifier);
                // The first of two.
                self.caches(group, &owner, domain.first_pointer("point_cache"))?;
                if rendered(&modifier) {
                    self.hazard(Hazard::LostSimulation { owner, what: "smoke" });
                }
            }
        }
        for fluid in group.all("FluidsimSettings") {
            // `OB_FLUIDSIM_DOMAIN`.
            if fluid.flag("type", 1 << 1) {
                let path = fluid.path("surfdataPath");
                self.refer(ReferenceKind::FluidCache, name.to_owned(), path, Files::Folder)?;
                self.hazard(Hazard::LostSimulation { owner: name.to_owned(), what: "liquid" });
            }
        }
        Ok(())
    }

    /// Cloth, soft bodies, painted surfaces.
    fn soft_things(&mut self, group: &Group<'_>, name: &str) -> Result<(), BlendError> {
        let of_hair: HashSet<_> =
            group.all("ParticleSystem").filter_map(|system| system.pointer("clmd")).collect();
        for modifier in group.all("ClothModifierData") {
            if rendered(&modifier) && !of_hair.contains(&modifier.address) {
                let cache = modifier.pointer("point_cache");
                self.simulation(group, part(name, &modifier), "cloth", cache)?;
            }
        }
        for modifier in group.all("SoftbodyModifierData").filter(rendered) {
            for body in group.all("SoftBody") {
                self.part(1)?;
                let shared = pointed(group, &body, "shared", "SoftBody_Shared");
                let cache = shared.and_then(|shared| shared.pointer("pointcache"));
                let cache = cache.or_else(|| body.pointer("pointcache"));
                self.simulation(group, part(name, &modifier), "soft body", cache)?;
            }
        }
        for surface in group.all("DynamicPaintSurface") {
            // `MOD_DPAINT_ACTIVE`; a sequence of images (2) is baked into files that are used as such.
            if surface.flag("flags", 1) && surface.int("format") != Some(2) {
                let surface_name = surface.text("name").unwrap_or_default();
                let owner = format!("{name}/{surface_name}");
                let cache = surface.pointer("pointcache");
                self.simulation(group, owner, "dynamic paint", cache)?;
            }
        }
        Ok(())
    }

    fn particle_systems(&mut self, group: &Group<'_>, name: &str) -> Result<(), BlendError> {
        let drawn: HashSet<_> = group
            .all("ParticleSystemModifierData")
            .filter(rendered)
            .filter_map(|modifier| modifier.pointer("psys"))
            .collect();
        for system in group.all("ParticleSystem") {
            let system_name = system.text("name").unwrap_or_default();
            let owner = format!("{name}/{system_name}");
            let is_stored = self.caches(group, &owner, system.pointer("pointcache"))?;
            if let Some(settings) = system.pointer("part")
                && drawn.contains(&system.address)
                && !is_stored
            {
                self.link(1)?;
                self.particle_systems.push(ParticleSystem {
                    block: self.block,
                    owner,
                    settings,
                    has_hair_dynamics: system.flag("flag", HAIR_DYNAMICS),
                });
            }
        }
        Ok(())
    }

    fn nodes_modifiers(&mut self, group: &Group<'_>, name: &str) -> Result<(), BlendError> {
        for modifier in group.all("NodesModifierData") {
            let owner = part(name, &modifier);
            let folder = modifier.either("bake_directory", "simulation_bake_directory");
            let folder = folder.and_then(|address| group.text_at(address));
            let shared = folder.as_ref().map(|(folder, _)| folder.clone());
            self.refer(ReferenceKind::NodesCache, owner.clone(), folder, Files::Folder)?;
            let bakes = modifier.pointer("bakes");
            let bakes = || bakes.into_iter().flat_map(|at| group.at(at, "NodesModifierBake"));
            self.part(bakes().take(PARTS_MAX + 1).count())?;
            self.imports.modifier(group, &modifier, &owner, self.block);
            for bake in bakes() {
                let folder = bake.pointer("directory").and_then(|at| group.text_at(at));
                self.refer(ReferenceKind::NodesCache, owner.clone(), folder, Files::Folder)?;
            }
            if let Some(tree) = modifier.pointer("node_group")
                && rendered(&modifier)
            {
                self.link(1)?;
                let about = (self.block, owner, tree);
                self.node_modifiers.push(NodesModifier::of(group, &modifier, shared, about));
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

    /// A data block that is one file, or has it packed.
    fn packable(&mut self, kind: ReferenceKind, group: &Group<'_>) -> Result<(), BlendError> {
        let id = group.id();
        if id.pointer("packedfile").is_some() {
            return Ok(());
        }
        // The font that Blender has in itself.
        let path = file_path(&id).filter(|(path, _)| path != "<builtin>");
        self.refer(kind, group.name(), path, Files::One)
    }

    fn image(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let image = group.id();
        // Since Blender 2.77 packed files are a list.
        let packed = group.all("ImagePackedFile");
        let is_packed = packed.filter(|file| file.pointer("packedfile").is_some()).count() > 0;
        if image.pointer("packedfile").is_some() || is_packed {
            return Ok(());
        }
        // `IMA_SRC_*`.
        let (kind, files) = match image.int("source") {
            Some(1) => (ReferenceKind::Image, Files::One),
            Some(2) => (ReferenceKind::Image, Files::Sequence { first: None, frames: None }),
            Some(3) => (ReferenceKind::Movie, Files::One),
            Some(6) => {
                let numbers = group.all("ImageTile").filter_map(|tile| tile.int("tile_number"));
                (ReferenceKind::Image, Files::Tiles { numbers: numbers.collect() })
            }
            _ => return Ok(()),
        };
        // `IMA_USE_VIEWS`, and each view in a file of its own (`R_IMF_VIEWS_INDIVIDUAL`).
        let has_views = image.flag("flag", 1 << 14) && image.int("views_format") == Some(0);
        let views = group.all("ImageView").filter(|_| has_views);
        let views: Vec<_> = views.filter_map(|view| view.path("filepath")).collect();
        let base = file_path(&image);
        // Blender reads the views' files instead of the one that they are named after.
        let unread = base.as_ref().filter(|_| !views.is_empty()).map(|(path, _)| path.clone());
        let is_view = |path: &String| views.iter().any(|(view, _)| view == path);
        let unread = unread.filter(|path| !is_view(path));
        for path in base.into_iter().chain(views.clone()) {
            let (before, is_unread) = (self.references.len(), unread.as_ref() == Some(&path.0));
            if let Files::Tiles { numbers } = &files {
                self.part(numbers.len())?;
            }
            self.refer(kind, group.name(), Some(path), files.clone())?;
            if matches!(files, Files::Sequence { .. }) && self.references.len() > before {
                self.image_rows.push((image.address, before));
            }
            if is_unread {
                self.excuse(before);
            }
        }
        Ok(())
    }

    /// Collects the image users in this data block, and how they number sequences.
    fn image_users(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let users = numbering::of_images(group);
        self.part(users.len())?;
        let block = self.block;
        self.image_users.extend(users.into_iter().map(|(image, it)| (image, (block, it))));
        Ok(())
    }

    /// Assigns the numberings to image sequences.
    fn number_images(&mut self) {
        let mut users: HashMap<u64, Vec<(BlockId, Numbering)>> = HashMap::new();
        for (image, user) in std::mem::take(&mut self.image_users) {
            let users = users.entry(image).or_default();
            if users.len() < NUMBERINGS_MAX && !users.contains(&user) {
                users.push(user);
            }
        }
        let images = std::mem::take(&mut self.image_rows);
        // With remapped time the frames do not match.
        if self.remaps_time {
            for reference in &mut self.references {
                reference.numberings.clear();
            }
            return;
        }
        for (address, reference) in images {
            if let (Some(users), Some(reference)) =
                (users.get(&address), self.references.get_mut(reference))
            {
                reference.numberings.clone_from(users);
            }
        }
    }

    /// Assigns the numbering of a clip, volume or cache file to the last reference.
    fn number_last(&mut self, group: &Group<'_>) {
        let block = self.block;
        if let (Some(numbering), Some(reference)) =
            (Numbering::of_block(group), self.references.last_mut())
            && reference.block == block
            && matches!(reference.files, Files::Sequence { .. })
        {
            reference.numberings = vec![(block, numbering)];
        }
    }

    fn movie_clip(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let clip = group.id();
        let is_sequence = clip.int("source") == Some(1);
        let files =
            if is_sequence { Files::Sequence { first: None, frames: None } } else { Files::One };
        self.refer(ReferenceKind::MovieClip, group.name(), file_path(&clip), files)?;
        self.number_last(group);
        Ok(())
    }

    fn cache_file(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let cache = group.id();
        let files = if cache.flag("is_sequence", u64::MAX) {
            Files::Sequence { first: None, frames: None }
        } else {
            Files::One
        };
        self.refer(ReferenceKind::Cache, group.name(), cache.path("filepath"), files.clone())?;
        self.number_last(group);
        for layer in group.all("CacheFileLayer") {
            let path = layer.path("filepath");
            self.refer(ReferenceKind::Cache, group.name(), path, files.clone())?;
        }
        Ok(())
    }

    fn volume(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let volume = group.id();
        if volume.pointer("packedfile").is_some() {
            return Ok(());
        }
        let files = if volume.flag("is_sequence", u64::MAX) {
            let frames = volume.int("frame_duration").and_then(|frames| frames.try_into().ok());
            Files::Sequence { first: None, frames }
        } else {
            Files::One
        };
        self.refer(ReferenceKind::Volume, group.name(), volume.path("filepath"), files)?;
        self.number_last(group);
        Ok(())
    }

    fn text(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let text = group.id();
        if text.flag("flags", TEXT_REGISTERED) {
            self.hazard(Hazard::RegisteredText { name: group.name() });
        }
        let path = text.either("name", "filepath").and_then(|address| group.text_at(address));
        self.refer(ReferenceKind::Text, group.name(), path, Files::One)
    }

    fn particle_settings(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let settings = group.id();
        let particles = match (settings.int("type"), settings.int("phystype")) {
            // `PART_HAIR`.
            (Some(2), _) => Particles::Hair,
            // `PART_PHYS_NO`.
            (_, Some(0)) => Particles::Still,
            _ => Particles::Flying,
        };
        self.link(1)?;
        self.particles.insert(settings.address, particles);
        Ok(())
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

    fn shader_nodes(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        for (structure, kind) in [
            ("NodeShaderTexIES", ReferenceKind::Ies),
            ("NodeShaderScript", ReferenceKind::ShaderScript),
        ] {
            for node in group.all(structure) {
                // `NODE_IES_EXTERNAL`, `NODE_SCRIPT_EXTERNAL`: else it is a text in the .blend.
                if node.int("mode") == Some(1) {
                    let path = node.path("filepath");
                    let script = path.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
                    self.refer(kind, group.name(), path, Files::One)?;
                    if let Some(stem) = script.strip_suffix(".osl") {
                        self.compiled_script(group, format!("{stem}.oso"))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Refers to the compiled form of a shader script, which Cycles uses as long as it is newer.
    fn compiled_script(&mut self, group: &Group<'_>, path: String) -> Result<(), BlendError> {
        let path = Some((path, Field::nowhere()));
        self.refer(ReferenceKind::ShaderScript, group.name(), path, Files::One)?;
        if let Some(reference) = self.references.last_mut() {
            reference.is_optional = true;
        }
        Ok(())
    }

    fn drivers(&mut self, group: &Group<'_>) {
        for curve in group.all("FCurve") {
            let Some(driver) = pointed(group, &curve, "driver", "ChannelDriver") else { continue };
            // `DRIVER_TYPE_PYTHON`.
            if driver.int("type") != Some(1) || curve.flag("flag", CURVE_MUTED) {
                continue;
            }
            let Some(expression) = driver.text("expression") else { continue };
            let mut variables = Vec::new();
            let mut next = driver.pointer("variables.first");
            for _ in 0..VARIABLES_MAX {
                let variable = next.and_then(|at| group.at(at, "DriverVar").next());
                let Some(variable) = variable else { break };
                variables.extend(variable.text("name"));
                next = variable.pointer("next");
            }
            if needs_scripts(&expression, &variables) {
                self.hazard(Hazard::Driver { owner: group.name(), expression });
            }
        }
    }

    /// A simulation that is computed from one frame to the next, by its cache.
    fn simulation(
        &mut self,
        group: &Group<'_>,
        owner: String,
        what: &'static str,
        cache: Option<u64>,
    ) -> Result<(), BlendError> {
        if !self.caches(group, &owner, cache)? {
            self.hazard(Hazard::UnbakedSimulation { owner, what });
        }
        Ok(())
    }

    /// Notes where a cache lies. Says whether it is complete, as far as the file tells.
    fn caches(
        &mut self,
        group: &Group<'_>,
        owner: &str,
        cache: Option<u64>,
    ) -> Result<bool, BlendError> {
        let cache = cache.and_then(|address| group.at(address, "PointCache").next());
        let Some(cache) = cache else { return Ok(false) };
        let is_external = cache.flag("flag", CACHE_EXTERNAL);
        if is_external {
            let path = cache.path("path");
            self.refer(ReferenceKind::PointCache, owner.to_owned(), path, Files::Folder)?;
        } else if cache.flag("flag", CACHE_ON_DISK) {
            let path = Some((DISK_CACHES.to_owned(), Field::nowhere()));
            self.refer(ReferenceKind::PointCache, owner.to_owned(), path, Files::Folder)?;
            // All caches of a file share the folder. One without a name of its own has the object's, in hexadecimal.
            let hex = || group.name().bytes().map(|byte| format!("{byte:02X}")).collect();
            let name = cache.text("name").filter(|name| !name.is_empty()).unwrap_or_else(hex);
            if let Some(reference) = self.references.last_mut() {
                reference.cache_name = Some(name);
            }
        }
        Ok(is_external || cache.flag("flag", CACHE_BAKED))
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

/// The object's name and the modifier's.
fn part(object: &str, modifier: &View<'_>) -> String {
    format!("{object}/{}", modifier.text("modifier.name").unwrap_or_default())
}

fn rendered(modifier: &View<'_>) -> bool {
    modifier.flag("modifier.mode", MODIFIER_RENDERED)
}

/// The path of a data block that is a file. Blender calls it `filepath` by now, but writes `name`.
fn file_path(id: &View<'_>) -> Option<(String, Field)> {
    id.path("name").or_else(|| id.path("filepath"))
}

/// Whether each view of a strip is in a file of its own: `SEQ_USE_VIEWS`, and `R_IMF_VIEWS_INDIVIDUAL`.
fn has_views(strip: &View<'_>) -> bool {
    strip.flag("flag", 1 << 29) && strip.int("views_format") == Some(0)
}

/// The names of a strip's pictures, of each eye where each has its own.
fn view_names(
    group: &Group<'_>,
    strip: &View<'_>,
    names: impl Iterator<Item = String>,
) -> Vec<String> {
    if !has_views(strip) {
        return names.collect();
    }
    let suffixes: Vec<_> = group
        .all("SceneRenderView")
        .take(VIEWS_MAX)
        .filter_map(|view| view.text("suffix"))
        .filter(|suffix| !suffix.is_empty())
        .collect();
    names
        .flat_map(|name| {
            let (stem, end) = name.rsplit_once('.').unwrap_or((&name, ""));
            let bare = suffixes.iter().find_map(|suffix| stem.strip_suffix(&**suffix));
            match bare {
                Some(bare) => {
                    suffixes.iter().map(|suffix| format!("{bare}{suffix}.{end}")).collect()
                }
                None => vec![name],
            }
        })
        .take(PARTS_MAX + 1)
        .collect()
}
