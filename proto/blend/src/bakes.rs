//! Finds the modifiers of geometry nodes that simulate, and where their bakes are stored.
//!
//! A modifier has a bake for each simulation and each "Bake" node in its tree, including nested groups. A bake
//! that is stored in the file is packed. Any other bake is in a folder, and only the disk tells whether it exists.

use std::collections::{HashMap, HashSet};

use crate::{
    BlockId,
    group::{Group, View},
};

/// Maximum depth of nested groups on the way to a node.
const DEPTH_MAX: usize = 64;

/// Maximum number of bakes of a modifier, more than a tree has nodes.
const BAKES_MAX: usize = 100_000;

/// A node tree.
#[derive(Default)]
pub(crate) struct Tree {
    simulates: bool,
    /// The trees that it contains as groups.
    pub(crate) groups: Vec<u64>,
    /// For each bake: the node, and the number of the bake in that node's own tree.
    nested: HashMap<i32, (i32, i32)>,
    nodes: HashMap<i32, Kind>,
}

#[derive(Clone, Copy)]
enum Kind {
    Simulation,
    Group(u64),
}

impl Tree {
    pub(crate) fn of(group: &Group<'_>) -> Self {
        let mut tree = Self::default();
        for node in group.all("bNode") {
            let kind = match node.text("idname").as_deref() {
                Some("GeometryNodeSimulationOutput") => {
                    tree.simulates = true;
                    Kind::Simulation
                }
                Some("GeometryNodeGroup") => {
                    let Some(id) = node.pointer("id") else { continue };
                    tree.groups.push(id);
                    Kind::Group(id)
                }
                _ => continue,
            };
            tree.nodes.extend(node.int("identifier").map(|node| (node, kind)));
        }
        for nested in group.all("bNestedNodeRef") {
            let path = nested.int("path.node_id").zip(nested.int("path.id_in_node"));
            tree.nested.extend(nested.int("id").zip(path));
        }
        tree
    }
}

/// A modifier of geometry nodes.
pub(crate) struct NodesModifier {
    pub(crate) block: BlockId,
    pub(crate) owner: String,
    pub(crate) tree: u64,
    bakes: Vec<Bake>,
    /// The folder of the only bake of a modifier in Blender 3.6.
    folder: Option<String>,
}

struct Bake {
    id: i32,
    is_packed: bool,
    /// Folders in which it may be stored.
    folders: Vec<String>,
}

impl NodesModifier {
    /// Parses a modifier. `folder` is the folder that it names.
    pub(crate) fn of(
        group: &Group<'_>,
        modifier: &View<'_>,
        folder: Option<String>,
        (block, owner, tree): (BlockId, String, u64),
    ) -> Self {
        let bakes = modifier.pointer("bakes").into_iter();
        let bakes = bakes.flat_map(|at| group.at(at, "NodesModifierBake")).take(BAKES_MAX);
        let bakes = bakes.map(|bake| {
            let id = bake.int("id").unwrap_or_default();
            let own = bake.pointer("directory").and_then(|at| group.text_at(at));
            let shared = folder.as_ref();
            let shared = shared.map(|folder| format!("{}/{id}", folder.trim_end_matches('/')));
            Bake {
                id,
                is_packed: bake.pointer("packed").is_some(),
                folders: own.map(|(own, _)| own).into_iter().chain(shared).collect(),
            }
        });
        let bakes = bakes.collect();
        let folder = folder.filter(|_| !modifier.has("bakes"));
        Self { block, owner, tree, bakes, folder }
    }
}

/// Where the simulations of a modifier are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In the file.
    Packed,
    /// The folders of each simulation, one of which contains its bake if it is baked. Empty if there are no bakes.
    InFolders(Vec<Vec<String>>),
}

/// All trees of a file by address.
pub(crate) type Trees = HashMap<u64, Tree>;

/// Returns the trees that simulate, directly or in a nested group.
pub(crate) fn simulating(trees: &Trees) -> HashSet<u64> {
    let mut users: HashMap<u64, Vec<u64>> = HashMap::new();
    for (address, tree) in trees {
        for group in &tree.groups {
            users.entry(*group).or_default().push(*address);
        }
    }
    let simulates = trees.iter().filter(|(_, tree)| tree.simulates);
    let mut next: Vec<u64> = simulates.map(|(address, _)| *address).collect();
    let mut simulating = HashSet::new();
    while let Some(tree) = next.pop() {
        if simulating.insert(tree) {
            next.extend(users.get(&tree).into_iter().flatten());
        }
    }
    simulating
}

/// Determines where the simulations of a modifier are stored.
pub(crate) fn stored(modifier: &NodesModifier, trees: &Trees) -> Stored {
    let mut simulations = modifier.bakes.iter();
    let simulations = simulations.by_ref().filter(|it| is_simulation(modifier.tree, it.id, trees));
    let mut has_any = false;
    let mut folders: Vec<Vec<String>> = Vec::new();
    for bake in simulations {
        has_any = true;
        if !bake.is_packed {
            folders.push(bake.folders.clone());
        }
    }
    match &modifier.folder {
        Some(folder) => Stored::InFolders(vec![vec![folder.clone()]]),
        None if has_any && folders.is_empty() => Stored::Packed,
        None => Stored::InFolders(folders),
    }
}

/// Whether a bake of a tree is a simulation. If the tree is in a library, it may be one.
fn is_simulation(tree: u64, bake: i32, trees: &Trees) -> bool {
    let (mut tree, mut bake) = (tree, bake);
    for _ in 0..DEPTH_MAX {
        let Some(known) = trees.get(&tree) else { return true };
        let Some((node, inner)) = known.nested.get(&bake) else { return true };
        match known.nodes.get(node) {
            Some(Kind::Simulation) => return true,
            Some(Kind::Group(group)) => (tree, bake) = (*group, *inner),
            None => return false,
        }
    }
    true
}
