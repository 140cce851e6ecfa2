//! What pictures need of the Blender that draws them: cameras for the compositor, formats, colour names and
//! add-ons.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::group::{Group, View};

/// Maximum number of names that are kept of each kind. A person reads a few of them.
const NAMES_MAX: usize = 1_000;

/// Maximum number of Render Layers nodes, File Output nodes and their formats that are kept.
const PARTS_MAX: usize = 10_000;

/// Prefixes of the types of Blender's own nodes.
const OWN_NODES: [&str; 6] =
    ["ShaderNode", "CompositorNode", "GeometryNode", "FunctionNode", "TextureNode", "Node"];

/// Types of Blender's own node trees.
const OWN_TREES: [&str; 4] =
    ["ShaderNodeTree", "CompositorNodeTree", "GeometryNodeTree", "TextureNodeTree"];

/// `NODE_MUTED`.
pub(crate) const NODE_MUTED: u64 = 1 << 9;

/// What a scene needs of the Blender that draws it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SceneNeeds {
    /// The view transform, which converts light to colours: `Filmic`, `AgX`, `Standard`. Empty in files from
    /// before Blender 2.64.
    pub view_transform: String,
    /// The look that is applied on top: `None`, `AgX - High Contrast`.
    pub look: String,
    /// The display device: `sRGB`.
    pub display_device: String,
    /// The colour space in which strips are combined.
    pub sequencer_space: String,
    /// Scenes without a camera whose picture the compositor uses. Blender refuses to draw them.
    pub cameraless: Vec<String>,
    /// The numbers of the formats of File Output nodes, as in `R_IMF_IMTYPE_*`.
    pub(crate) format_numbers: Vec<i32>,
}

impl SceneNeeds {
    /// Parses the color management of a scene.
    pub(crate) fn parse(scene: &View<'_>) -> Self {
        let text = |path| scene.text(path).unwrap_or_default();
        Self {
            view_transform: text("view_settings.view_transform"),
            look: text("view_settings.look"),
            display_device: text("display_settings.display_device"),
            sequencer_space: text("sequencer_colorspace_settings.name"),
            ..Self::default()
        }
    }
}

/// What a file needs of the Blender that draws it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Colour spaces of images, clips and strips, each with a data block that uses it.
    pub color_spaces: BTreeMap<String, String>,
    /// Types of nodes that are not Blender's own, each with a data block that uses it. An add-on provides them.
    pub foreign_nodes: BTreeMap<String, String>,
    /// Types of node trees that are not Blender's own, each with a tree. No renderer reads such a tree, but its
    /// add-on may use it to change the scene.
    pub foreign_trees: BTreeMap<String, String>,
}

/// The tree of a compositor.
#[derive(Default)]
struct Compositor {
    /// Addresses of the scenes that its Render Layers nodes show; `None` for the scene that it belongs to.
    scenes: BTreeSet<Option<u64>>,
    formats: BTreeSet<i32>,
}

/// The needs found so far.
#[derive(Default)]
pub(crate) struct Gathered {
    needs: Needs,
    /// By the address of the scene, or of the tree if it is a separate data block.
    compositors: HashMap<u64, Compositor>,
    /// For each scene, the separate tree that it uses.
    groups: HashMap<u64, u64>,
    /// Scenes without a camera.
    cameraless: HashMap<u64, String>,
    parts: usize,
}

impl Gathered {
    /// Collects the needs of one data block.
    pub(crate) fn group(&mut self, group: &Group<'_>) {
        let id = group.id();
        match &group.code {
            b"SC" => {
                if id.has("camera") && !has_camera(group) {
                    self.cameraless.insert(id.address, group.name());
                }
                if let Some(tree) = id.pointer("compositing_node_group") {
                    self.groups.insert(id.address, tree);
                }
                for strip in group.all("Strip") {
                    self.color_space(group, &strip);
                }
            }
            b"IM" | b"MC" => self.color_space(group, &id),
            b"NT" => {
                let kind = id.text("idname").unwrap_or_default();
                if !kind.is_empty() && !OWN_TREES.contains(&kind.as_str()) {
                    note(&mut self.needs.foreign_trees, kind, group.name());
                    return;
                }
            }
            _ => {}
        }
        for node in group.all("bNode").filter(|node| !node.flag("flag", NODE_MUTED)) {
            self.node(group, &node);
        }
    }

    fn node(&mut self, group: &Group<'_>, node: &View<'_>) {
        let Some(kind) = node.text("idname").filter(|kind| !kind.is_empty()) else { return };
        let is_own = OWN_NODES.iter().any(|own| kind.starts_with(own));
        match kind.as_str() {
            // Blender replaces an unknown type by `NodeUndefined` or the like when it saves the file.
            "NodeUndefined" => note(&mut self.needs.foreign_nodes, kind, group.name()),
            "CompositorNodeRLayers" => {
                if let Some(compositor) = self.compositor(group) {
                    compositor.scenes.insert(node.pointer("id"));
                }
            }
            "CompositorNodeOutputFile" => self.file_output(group, node),
            _ if !is_own => note(&mut self.needs.foreign_nodes, kind, group.name()),
            _ => {}
        }
    }

    /// Collects the formats that a File Output node writes: its own, and the formats of inputs that differ.
    fn file_output(&mut self, group: &Group<'_>, node: &View<'_>) {
        let Some(output) = node.pointer("storage") else { return };
        let mut formats: Vec<i32> = (group.at(output, "NodeImageMultiFile"))
            .filter_map(|output| output.int("format.imtype"))
            .collect();
        let sockets = group.all("NodeImageMultiFileSocket");
        let own = sockets.filter(|socket| !socket.flag("use_node_format", u64::MAX));
        formats.extend(own.filter_map(|socket| socket.int("format.imtype")).take(PARTS_MAX));
        let items = group.all("NodeCompositorFileOutputItem");
        let own = items.filter(|item| item.flag("override_node_format", u64::MAX));
        formats.extend(own.filter_map(|item| item.int("format.imtype")).take(PARTS_MAX));
        if let Some(compositor) = self.compositor(group) {
            compositor.formats.extend(formats);
        }
    }

    /// Returns the compositor that a data block is or contains.
    fn compositor(&mut self, group: &Group<'_>) -> Option<&mut Compositor> {
        self.parts += 1;
        (self.parts <= PARTS_MAX).then(|| self.compositors.entry(group.id().address).or_default())
    }

    fn color_space(&mut self, group: &Group<'_>, of: &View<'_>) {
        if let Some(space) = of.text("colorspace_settings.name").filter(|name| !name.is_empty()) {
            note(&mut self.needs.color_spaces, space, group.name());
        }
    }

    /// Adds the needs of a scene's compositor to the scene.
    pub(crate) fn complete(&self, scene: u64, needs: &mut SceneNeeds) {
        let tree = self.groups.get(&scene).unwrap_or(&scene);
        let Some(compositor) = self.compositors.get(tree) else { return };
        let shown = compositor.scenes.iter().map(|shown| shown.unwrap_or(scene));
        let shown: HashSet<u64> = shown.collect();
        needs.cameraless = shown.iter().filter_map(|at| self.cameraless.get(at)).cloned().collect();
        needs.cameraless.sort_unstable();
        needs.format_numbers = compositor.formats.iter().copied().collect();
    }

    /// Returns the needs of the whole file.
    pub(crate) fn into_needs(self) -> Needs {
        self.needs
    }
}

/// Whether a scene has a camera: its own, or one that a marker of the timeline binds. At a frame before all markers
/// Blender takes the first one's.
pub(crate) fn has_camera(group: &Group<'_>) -> bool {
    let bound = || group.all("TimeMarker").any(|marker| marker.pointer("camera").is_some());
    group.id().pointer("camera").is_some() || bound()
}

fn note(names: &mut BTreeMap<String, String>, name: String, owner: String) {
    if names.len() < NAMES_MAX {
        names.entry(name).or_insert(owner);
    }
}
