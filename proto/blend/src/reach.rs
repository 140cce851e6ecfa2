//! Finds what a render of a file draws, by following the uses of data blocks from the scene.
//!
//! A render does not read a data block that the scene does not lead to, so files that only such a data block names
//! are not missed. The graph has more edges than Blender follows, never fewer. In doubt a data block counts as
//! drawn.

use std::collections::{HashMap, HashSet};

use crate::{
    BlendError, BlenderVersion,
    group::{Group, View},
    needs::NODE_MUTED,
    scene::USES_SEQUENCER,
    strips::Strips,
    uses::{BlockId, DATA_BLOCKS_MAX, DataBlock, Hidden, Uses},
};

/// Maximum number of uses of data blocks in a file.
const USES_MAX: usize = 10_000_000;

/// Members of strips that point to data blocks.
const SHOWN_BY_STRIPS: [&str; 6] = ["scene", "scene_camera", "clip", "mask", "sound", "ipo"];

/// Data blocks of the interface, which no render follows: screens, windows, workspaces, brushes.
const INTERFACE: [&str; 5] = ["SR", "SN", "WM", "WS", "BR"];

/// `OB_MBALL`, `OB_CAMERA`, `OB_SPEAKER`: one metaball shapes others, a scene uses cameras without drawing them, and
/// a hidden speaker may be heard.
const NEVER_HIDDEN: [i32; 3] = [5, 11, 12];

/// `OB_HIDE_RENDER`.
const OBJECT_HIDDEN: u64 = 1 << 2;

/// `VIEW_LAYER_RENDER`.
const LAYER_RENDERED: u64 = 1 << 0;

/// `BASE_ENABLED_RENDER`, as the collections of an object say.
const ENABLED_BY_COLLECTIONS: u64 = 1 << 7;

/// Nodes of Blender 2.7x that newer versions do not draw.
const NODES_OF_OLD: [&str; 3] =
    ["ShaderNodeMaterial", "ShaderNodeExtendedMaterial", "ShaderNodeTexture"];

/// Nodes that only provide what they read. Without a link from such a node its data is not read.
const SOURCES: [&str; 7] = [
    "ShaderNodeTexImage",
    "ShaderNodeTexEnvironment",
    "ShaderNodeTexIES",
    "CompositorNodeImage",
    "CompositorNodeMovieClip",
    "CompositorNodeTexture",
    "GeometryNodeImageTexture",
];

/// The data blocks so far, with the addresses that they use.
pub(crate) struct BlockList {
    saved_by: BlenderVersion,
    blocks: Vec<Found>,
    library: Option<BlockId>,
    uses: usize,
    /// The addresses of objects in the view layers of scenes: all, and those in layers that are switched on.
    laid_out: HashSet<u64>,
    laid_out_on: HashSet<u64>,
}

/// What an object says about its visibility.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visibility {
    /// It is no object, or its effects may be seen although it is hidden.
    Needed,
    /// It is hidden by itself.
    HiddenItself,
    /// Its view layers and collections decide.
    AsLaidOut,
}

struct Found {
    address: u64,
    block: DataBlock,
    uses: Vec<u64>,
    /// The data blocks that it overrides. Only their library counts as used.
    overrides: Vec<u64>,
    visibility: Visibility,
}

impl BlockList {
    pub(crate) fn new(saved_by: BlenderVersion) -> Self {
        Self {
            saved_by,
            blocks: Vec::new(),
            library: None,
            uses: 0,
            laid_out: HashSet::new(),
            laid_out_on: HashSet::new(),
        }
    }

    /// Adds a data block and returns its index.
    pub(crate) fn take(&mut self, group: &Group<'_>) -> Result<BlockId, BlendError> {
        if self.blocks.len() >= DATA_BLOCKS_MAX {
            return Err(BlendError::TooMany { what: "data blocks", limit: DATA_BLOCKS_MAX });
        }
        // It is below the limit, so it fits.
        let id = BlockId(u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
        let mut uses: Vec<u64> = group.uses().copied().collect();
        uses.extend(of_nodes(group, self.saved_by));
        match &group.code {
            // A library points to the library through which it was reached.
            b"LI" => {
                self.library = Some(id);
                uses.clear();
            }
            b"SC" => {
                uses.extend(of_strips(group));
                self.lay_out(group);
            }
            // An empty only shows its picture in the viewport.
            b"OB" if group.id().int("type") == Some(0) => {
                let shown = group.id().pointer("data");
                uses.retain(|address| Some(*address) != shown);
            }
            _ => {}
        }
        uses.sort_unstable();
        self.uses = self.uses.saturating_add(uses.len());
        if self.uses > USES_MAX {
            return Err(BlendError::TooMany { what: "uses of data blocks", limit: USES_MAX });
        }
        let overrides = group.all("IDOverrideLibrary");
        let overrides = overrides.filter_map(|it| it.pointer("reference")).take(1).collect();
        let library = self.library.filter(|_| &group.code == b"ID");
        let name = full_name(group).into();
        let block = DataBlock { name, library, uses: Vec::new(), hidden: Hidden::Never };
        let visibility = visibility(group);
        self.blocks.push(Found { address: group.id().address, block, uses, overrides, visibility });
        Ok(id)
    }

    /// Notes which objects the view layers of a scene show, as far as their collections decide.
    fn lay_out(&mut self, group: &Group<'_>) {
        let objects = |bases: &mut dyn Iterator<Item = View<'_>>| -> Vec<u64> {
            bases.filter_map(|base| base.pointer("object")).collect()
        };
        let layers: Vec<_> = group.all("ViewLayer").collect();
        let is_on = |layer: &View<'_>| layer.flag("flag", LAYER_RENDERED);
        // Before Blender 2.8 scenes have no such layers. If all are off, Blender may still draw the first.
        if !layers.iter().any(is_on) {
            let all = objects(&mut group.all("Base"));
            self.laid_out.extend(&all);
            self.laid_out_on.extend(all);
            return;
        }
        let mut known = HashSet::new();
        for layer in &layers {
            let mut next = layer.pointer("object_bases.first");
            while let Some(base) = next.and_then(|at| group.at(at, "Base").next()) {
                // A damaged file may have a list that never ends.
                if !known.insert(base.address) {
                    break;
                }
                next = base.pointer("next");
                // Excluded collections have no bases.
                let is_hidden = base.has("flag_from_collection")
                    && !base.flag("flag_from_collection", ENABLED_BY_COLLECTIONS);
                if !is_hidden {
                    self.laid_out.extend(base.pointer("object"));
                    self.laid_out_on.extend(base.pointer("object").filter(|_| is_on(layer)));
                }
            }
        }
    }

    /// Returns all data blocks, with indices in place of addresses.
    pub(crate) fn finish(self) -> Uses {
        let addresses = self.blocks.iter().map(|found| found.address);
        let places: HashMap<u64, BlockId> = addresses.zip((0..).map(BlockId)).collect();
        let place = |address: &u64| places.get(address).copied();
        let library = |id: BlockId| self.blocks.get(id.0 as usize)?.block.library;
        let uses: Vec<Vec<BlockId>> = (self.blocks.iter())
            .map(|found| {
                let overridden = found.overrides.iter().filter_map(place).filter_map(library);
                found.uses.iter().filter_map(place).chain(overridden).collect()
            })
            .collect();
        let needed = self.needed(&uses);
        let hidden: Vec<Hidden> = (self.blocks.iter().zip(needed))
            .map(|(found, is_needed)| match found.visibility {
                _ if is_needed => Hidden::Never,
                Visibility::Needed => Hidden::Never,
                Visibility::HiddenItself => Hidden::Always,
                Visibility::AsLaidOut if self.laid_out_on.contains(&found.address) => Hidden::Never,
                Visibility::AsLaidOut if self.laid_out.contains(&found.address) => {
                    Hidden::WithoutLayersThatAreOff
                }
                Visibility::AsLaidOut => Hidden::Always,
            })
            .collect();
        let blocks = self.blocks.into_iter().map(|found| found.block).zip(uses).zip(hidden);
        let blocks = blocks.map(|((block, uses), hidden)| DataBlock { uses, hidden, ..block });
        Uses { blocks: blocks.collect() }
    }

    /// For each data block, whether anything but scenes and their collections refers to it: a modifier, an instance,
    /// a child.
    fn needed(&self, uses: &[Vec<BlockId>]) -> Vec<bool> {
        let kind = |id: BlockId| self.blocks.get(id.0 as usize)?.block.name.get(..2);
        let mut needed = vec![false; uses.len()];
        let mut collections = Vec::new();
        let mut need = |of: BlockId, collections: &mut Vec<BlockId>| {
            for used in uses.get(of.0 as usize).into_iter().flatten().filter(|used| **used != of) {
                if let Some(is_needed) = needed.get_mut(used.0 as usize)
                    && !std::mem::replace(is_needed, true)
                    && kind(*used) == Some("GR")
                {
                    collections.push(*used);
                }
            }
        };
        for id in (0..uses.len()).filter_map(|id| u32::try_from(id).ok()).map(BlockId) {
            let is_holder = kind(id)
                .is_some_and(|kind| matches!(kind, "SC" | "GR") || INTERFACE.contains(&kind));
            if !is_holder {
                need(id, &mut collections);
            }
        }
        // What uses a collection uses all objects in it.
        while let Some(collection) = collections.pop() {
            need(collection, &mut collections);
        }
        needed
    }
}

/// What an object says about its visibility. One that is animated may be hidden for some frames only, and one that
/// collides, pulls or flows is felt by objects that do not refer to it.
fn visibility(group: &Group<'_>) -> Visibility {
    let object = group.id();
    let is_kind = |kinds: &[i32]| object.int("type").is_some_and(|kind| kinds.contains(&kind));
    const FELT: [&str; 4] = ["adt", "pd", "rigidbody_object", "rigidbody_constraint"];
    const SIMULATED: [&str; 3] =
        ["FluidModifierData", "DynamicPaintModifierData", "SmokeModifierData"];
    let is_needed = &group.code != b"OB"
        || is_kind(&NEVER_HIDDEN)
        || FELT.iter().any(|member| object.pointer(member).is_some())
        || SIMULATED.iter().any(|modifier| group.all(modifier).next().is_some())
        // The library may have changed it since.
        || group.all("IDOverrideLibrary").next().is_some();
    // Blender renamed the member, but writes the old name.
    let is_hidden = |member| object.flag(member, OBJECT_HIDDEN);
    match is_needed {
        true => Visibility::Needed,
        false if is_hidden("restrictflag") || is_hidden("visibility_flag") => {
            Visibility::HiddenItself
        }
        false => Visibility::AsLaidOut,
    }
}

/// Returns what the strips of a scene show or play. Where the sequencer is off, its sounds may still be in a movie.
fn of_strips(group: &Group<'_>) -> Vec<u64> {
    let is_off = !group.id().flag("r.scemode", USES_SEQUENCER);
    let strips: Vec<_> = Strips::of(group).shown(group).collect();
    let members = SHOWN_BY_STRIPS.iter().filter(|member| !is_off || **member == "sound");
    members.flat_map(|member| strips.iter().filter_map(|strip| strip.pointer(member))).collect()
}

/// Returns what the nodes of a data block show, except for unlinked sources.
fn of_nodes(group: &Group<'_>, saved_by: BlenderVersion) -> Vec<u64> {
    if !uses_nodes(&group.id(), group.code, saved_by) {
        return Vec::new();
    }
    let from: HashSet<u64> =
        group.all("bNodeLink").filter_map(|link| link.pointer("fromnode")).collect();
    let is_shown = |node: &View<'_>| {
        let kind = node.text("idname").unwrap_or_default();
        let is_idle = !from.contains(&node.address) || node.flag("flag", NODE_MUTED);
        let is_idle_source = SOURCES.contains(&&*kind) && is_idle;
        !is_idle_source && !NODES_OF_OLD.contains(&&*kind)
    };
    group.all("bNode").filter(is_shown).filter_map(|node| node.pointer("id")).collect()
}

/// Whether the nodes of a material, world, light or scene are in use. Since Blender 5.0 they always are.
fn uses_nodes(id: &View<'_>, code: [u8; 2], saved_by: BlenderVersion) -> bool {
    match &code {
        b"MA" | b"WO" | b"LA" | b"SC" if saved_by.major < 5 && id.has("use_nodes") => {
            id.flag("use_nodes", u64::MAX)
        }
        _ => true,
    }
}

/// The name of a data block with the letters of its type.
fn full_name(group: &Group<'_>) -> String {
    let id = group.id();
    id.text("id.name").or_else(|| id.text("name")).unwrap_or_default()
}
