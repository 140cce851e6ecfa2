//! Finds the files that geometry nodes import. The path is in a socket, a node or an input of a modifier, possibly
//! through groups.
//!
//! Blender's own list of paths does not include them. A path that the nodes compute is not known before they run;
//! only that is reported.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    BlockId,
    group::{Group, View},
    reference::Field,
};

/// Maximum number of sockets of a node, inputs of a modifier, or properties, more than anybody makes.
const INPUTS_MAX: usize = 1_000;

/// Maximum number of nodes between a path and the node that imports it, such as reroutes and switches.
const STEPS_MAX: usize = 64;

/// Maximum number of paths among which one import chooses.
const SOURCES_MAX: usize = 256;

/// Maximum number of group inputs in a file that are paths.
const PATH_INPUTS_MAX: usize = 100_000;

/// Prefix of the types of nodes that import.
const IMPORTS: &str = "GeometryNodeImport";

/// Nodes that pass on one of their inputs.
const CHOICES: [&str; 5] = [
    "NodeReroute",
    "GeometryNodeSwitch",
    "GeometryNodeIndexSwitch",
    "GeometryNodeMenuSwitch",
    "NodeEnableOutput",
];

/// A path and where it is stored.
type Path = (String, Field);

/// The source of a socket's path.
#[derive(Debug, Clone)]
enum Source {
    Stored(Path),
    /// An input of the tree, by its identifier.
    Input(String),
    Computed,
}

/// The trees and modifiers of a file.
#[derive(Default)]
pub(crate) struct Imports {
    trees: BTreeMap<u64, Tree>,
    modifiers: Vec<Modifier>,
    path_inputs: usize,
}

struct Tree {
    block: BlockId,
    name: String,
    /// The sources of the paths of its importing nodes.
    imports: Vec<Source>,
    /// The groups in it: their trees, and the sources of their inputs.
    groups: Vec<(u64, HashMap<String, Vec<Source>>)>,
    /// The default values of its inputs, which modifiers can replace.
    defaults: HashMap<String, Path>,
    /// Its inputs that are paths.
    paths: HashSet<String>,
}

struct Modifier {
    block: BlockId,
    owner: String,
    tree: u64,
    texts: HashMap<String, Path>,
}

/// A file that is imported.
pub(crate) struct Import {
    pub(crate) block: BlockId,
    pub(crate) owner: String,
    /// `None` if it is not known before the nodes run.
    pub(crate) path: Option<Path>,
}

impl Imports {
    /// Adds a node tree.
    pub(crate) fn tree(&mut self, group: &Group<'_>, block: BlockId) {
        let nodes = Nodes::of(group);
        let mut tree = Tree {
            block,
            name: group.name(),
            imports: Vec::new(),
            groups: Vec::new(),
            defaults: HashMap::new(),
            paths: HashSet::new(),
        };
        for node in nodes.nodes.values() {
            let kind = node.text("idname").unwrap_or_default();
            if kind.starts_with(IMPORTS) && nodes.is_used(node) {
                // The path is the first input.
                let socket = nodes.inputs(node).next();
                tree.imports.extend(socket.into_iter().flat_map(|socket| nodes.sources(&socket)));
            } else if kind == "GeometryNodeGroup"
                && let Some(id) = node.pointer("id")
            {
                let texts = nodes.inputs(node).filter(|socket| nodes.is_text(socket));
                let sources = texts.filter_map(|socket| {
                    Some((socket.text("identifier")?, nodes.sources(&socket)))
                });
                tree.groups.push((id, sources.collect()));
            }
        }
        for socket in group.all("bNodeTreeInterfaceSocket").take(INPUTS_MAX) {
            let identifier = socket.pointer("identifier").and_then(|at| group.text_at(at));
            let text = socket.pointer("socket_data").and_then(|at| nodes.text_at(at));
            if let (Some((identifier, _)), Some(text)) = (identifier, text) {
                tree.defaults.insert(identifier, text);
            }
        }
        if !tree.imports.is_empty() || !tree.groups.is_empty() {
            self.trees.insert(group.id().address, tree);
        }
    }

    /// Adds the values that a modifier passes to its tree.
    pub(crate) fn modifier(
        &mut self,
        group: &Group<'_>,
        modifier: &View<'_>,
        owner: &str,
        block: BlockId,
    ) {
        let Some(tree) = modifier.pointer("node_group") else { return };
        let all = modifier.pointer("settings.properties");
        let all = all.and_then(|at| group.at(at, "IDProperty").next());
        let mut next = all.and_then(|all| all.pointer("data.group.first"));
        let mut texts = HashMap::new();
        for _ in 0..INPUTS_MAX {
            let property = next.and_then(|at| group.at(at, "IDProperty").next());
            let Some(property) = property else { break };
            let text = property.pointer("data.pointer").and_then(|at| group.text_at(at));
            if let (Some(name), Some(text)) = (property.text("name"), text) {
                texts.insert(name, text);
            }
            next = property.pointer("next");
        }
        self.modifiers.push(Modifier { block, owner: owner.into(), tree, texts });
    }

    /// Returns all imports, once all trees are known.
    pub(crate) fn finish(mut self) -> Vec<Import> {
        let mut found = Vec::new();
        // Inputs that turned out to be paths. The users of their trees provide the values.
        let mut next = Vec::new();
        let addresses: Vec<u64> = self.trees.keys().copied().collect();
        for address in &addresses {
            let Some(tree) = self.trees.get(address) else { continue };
            let sources = tree.imports.clone();
            self.settle(*address, sources, &mut next, &mut found);
        }
        let users = self.users();
        while let Some((address, input)) = next.pop() {
            for user in users.get(&address).into_iter().flatten() {
                let Some(tree) = self.trees.get(user) else { continue };
                let groups = tree.groups.iter().filter(|(group, _)| *group == address);
                let sources = groups.filter_map(|(_, inputs)| inputs.get(&input)).flatten();
                let sources: Vec<Source> = sources.cloned().collect();
                self.settle(*user, sources, &mut next, &mut found);
            }
        }
        self.of_modifiers(&mut found);
        found
    }

    /// Processes the sources of a path in a tree.
    fn settle(
        &mut self,
        address: u64,
        sources: Vec<Source>,
        next: &mut Vec<(u64, String)>,
        found: &mut Vec<Import>,
    ) {
        let Some(tree) = self.trees.get_mut(&address) else { return };
        for source in sources {
            let path = match source {
                Source::Stored(path) => Some(path),
                Source::Computed => None,
                Source::Input(input) => {
                    if self.path_inputs < PATH_INPUTS_MAX && tree.paths.insert(input.clone()) {
                        self.path_inputs += 1;
                        next.push((address, input));
                    }
                    continue;
                }
            };
            found.push(Import { block: tree.block, owner: tree.name.clone(), path });
        }
    }

    fn of_modifiers(&self, found: &mut Vec<Import>) {
        for modifier in &self.modifiers {
            let Some(tree) = self.trees.get(&modifier.tree) else { continue };
            let mut paths: Vec<&String> = tree.paths.iter().take(INPUTS_MAX).collect();
            paths.sort_unstable();
            for input in paths {
                let own = modifier.texts.get(input).map(|path| (modifier.block, path));
                // The modifier does not store empty values.
                let default = tree.defaults.get(input).map(|path| (tree.block, path));
                if let Some((block, path)) = own.or(default) {
                    let (owner, path) = (modifier.owner.clone(), Some(path.clone()));
                    found.push(Import { block, owner, path });
                }
            }
        }
    }

    /// For each tree, the trees that contain it as a group.
    fn users(&self) -> HashMap<u64, Vec<u64>> {
        let mut users: HashMap<u64, Vec<u64>> = HashMap::new();
        for (address, tree) in &self.trees {
            let groups: HashSet<u64> = tree.groups.iter().map(|(group, _)| *group).collect();
            for group in groups {
                users.entry(group).or_default().push(*address);
            }
        }
        users
    }
}

/// The nodes of a tree and the links between them.
struct Nodes<'g> {
    group: &'g Group<'g>,
    nodes: BTreeMap<u64, View<'g>>,
    sockets: HashMap<u64, View<'g>>,
    /// For each linked socket: the node and the socket that the link comes from.
    links: HashMap<u64, (u64, u64)>,
    from: HashSet<u64>,
}

impl<'g> Nodes<'g> {
    fn of(group: &'g Group<'g>) -> Self {
        let by_address = |view: View<'g>| (view.address, view);
        let links = || group.all("bNodeLink");
        Self {
            group,
            nodes: group.all("bNode").map(by_address).collect(),
            sockets: group.all("bNodeSocket").map(by_address).collect(),
            links: links()
                .filter_map(|link| {
                    let from = (link.pointer("fromnode")?, link.pointer("fromsock")?);
                    Some((link.pointer("tosock")?, from))
                })
                .collect(),
            from: links().filter_map(|link| link.pointer("fromnode")).collect(),
        }
    }

    /// Whether anything is linked to a node's outputs.
    fn is_used(&self, node: &View<'_>) -> bool {
        self.from.contains(&node.address)
    }

    fn inputs(&self, node: &View<'g>) -> impl Iterator<Item = View<'g>> {
        let socket = |at: u64| self.sockets.get(&at).copied();
        let first = node.pointer("inputs.first").and_then(socket);
        let next = move |view: &View<'g>| view.pointer("next").and_then(socket);
        std::iter::successors(first, next).take(INPUTS_MAX)
    }

    fn is_text(&self, socket: &View<'_>) -> bool {
        let value = socket.pointer("default_value");
        value.is_some_and(|at| self.group.at(at, "bNodeSocketValueString").next().is_some())
    }

    /// The text of a socket's value; `None` if it is empty.
    fn text_at(&self, value: u64) -> Option<Path> {
        self.group.at(value, "bNodeSocketValueString").next()?.path("value")
    }

    /// Returns the possible sources of a socket's text.
    fn sources(&self, socket: &View<'g>) -> Vec<Source> {
        let (mut sources, mut seen) = (Vec::new(), HashSet::new());
        self.collect(socket, 0, &mut sources, &mut seen);
        sources
    }

    /// `seen` contains the sockets that were visited. Each is visited once, however many links lead to it.
    fn collect(
        &self,
        socket: &View<'g>,
        depth: usize,
        sources: &mut Vec<Source>,
        seen: &mut HashSet<u64>,
    ) {
        if sources.len() >= SOURCES_MAX || !seen.insert(socket.address) {
            return;
        }
        let Some((from, output)) = self.links.get(&socket.address) else {
            let text = socket.pointer("default_value").and_then(|at| self.text_at(at));
            sources.extend(text.map(Source::Stored));
            return;
        };
        let Some(node) = self.nodes.get(from).filter(|_| depth < STEPS_MAX) else {
            sources.push(Source::Computed);
            return;
        };
        match node.text("idname").unwrap_or_default().as_str() {
            "FunctionNodeInputString" => {
                let storage = node.pointer("storage");
                let storage = storage.and_then(|at| self.group.at(at, "NodeInputString").next());
                let text = storage.and_then(|storage| storage.pointer("string"));
                sources.extend(text.and_then(|at| self.group.text_at(at)).map(Source::Stored));
            }
            "NodeGroupInput" => {
                let input = self.sockets.get(output).and_then(|it| it.text("identifier"));
                sources.extend(input.map(Source::Input));
            }
            kind if CHOICES.contains(&kind) => {
                let texts = self.inputs(node);
                // The input of a reroute has no text of its own.
                let texts = texts.filter(|it| kind == "NodeReroute" || self.is_text(it));
                for input in texts {
                    self.collect(&input, depth + 1, sources, seen);
                }
            }
            _ => sources.push(Source::Computed),
        }
    }
}
