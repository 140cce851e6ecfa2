//! A data block and what belongs to it, as they follow each other in the file.

use std::collections::{HashMap, HashSet};

use crate::{
    BlendError,
    dna::{self, Dna},
    header::Block,
    pointers::{Pointers, read_uses},
    reference::Field,
    stream::Stream,
};

/// Bytes kept of one data block and what belongs to it. The largest that are kept are the names of an image strip's
/// pictures, with 268 bytes each: this is enough for 900,000.
const GROUP_BYTES_MAX: usize = 256 << 20;

/// Structs kept of one data block: a scene has one for each of its objects, of 100 bytes in memory.
const GROUP_BLOCKS_MAX: usize = 1_000_000;

/// What is kept of a data block itself: a scene, the largest, has 6 to 9 KB.
const ID_BYTES_MAX: u64 = 64 << 10;

/// What is kept of a text that is a block of its own.
const TEXT_BYTES_MAX: u64 = 4 << 10;

/// Data blocks of which more than the name is read: the struct of each code.
const IDS: [([u8; 2], &str); 13] = [
    (*b"SC", "Scene"),
    (*b"OB", "Object"),
    (*b"LI", "Library"),
    (*b"IM", "Image"),
    (*b"VF", "VFont"),
    (*b"SO", "bSound"),
    (*b"MC", "MovieClip"),
    (*b"CF", "CacheFile"),
    (*b"VO", "Volume"),
    (*b"TX", "Text"),
    (*b"TE", "Tex"),
    (*b"PA", "ParticleSettings"),
    (*b"NT", "bNodeTree"),
];

/// Structs that are kept, and of which data blocks only, if not of all.
const WANTED: [(&str, Option<[u8; 2]>); 56] = [
    // Paths.
    ("ImageView", Some(*b"IM")),
    ("ImageTile", Some(*b"IM")),
    ("ImagePackedFile", Some(*b"IM")),
    ("CacheFileLayer", Some(*b"CF")),
    ("MeshCacheModifierData", Some(*b"OB")),
    ("OceanModifierData", Some(*b"OB")),
    ("FluidModifierData", Some(*b"OB")),
    ("FluidDomainSettings", Some(*b"OB")),
    ("FluidsimSettings", Some(*b"OB")),
    ("SmokeModifierData", Some(*b"OB")),
    ("SmokeDomainSettings", Some(*b"OB")),
    ("NodesModifierData", Some(*b"OB")),
    ("NodesModifierBake", Some(*b"OB")),
    ("NodeShaderTexIES", None),
    ("NodeShaderScript", None),
    ("bNodeSocket", Some(*b"NT")),
    ("bNestedNodeRef", Some(*b"NT")),
    ("bNodeSocketValueString", Some(*b"NT")),
    ("NodeInputString", Some(*b"NT")),
    ("bNodeTreeInterfaceSocket", Some(*b"NT")),
    ("CustomDataExternal", Some(*b"ME")),
    // Of the video sequencer. Before Blender 2.5 and perhaps one day again, a strip is called by its name.
    ("Editing", Some(*b"SC")),
    ("Sequence", Some(*b"SC")),
    ("Strip", Some(*b"SC")),
    ("StripElem", Some(*b"SC")),
    ("SeqTimelineChannel", Some(*b"SC")),
    // Simulations.
    ("PointCache", None),
    ("ParticleSystem", Some(*b"OB")),
    ("ParticleSystemModifierData", Some(*b"OB")),
    ("ClothModifierData", Some(*b"OB")),
    ("SoftbodyModifierData", Some(*b"OB")),
    ("SoftBody", Some(*b"OB")),
    ("SoftBody_Shared", Some(*b"OB")),
    ("DynamicPaintModifierData", Some(*b"OB")),
    ("DynamicPaintCanvasSettings", Some(*b"OB")),
    ("DynamicPaintSurface", Some(*b"OB")),
    ("RigidBodyWorld", Some(*b"SC")),
    ("RigidBodyWorld_Shared", Some(*b"SC")),
    ("bNode", None),
    // Needs of pictures.
    ("NodeImageMultiFile", None),
    ("NodeImageMultiFileSocket", None),
    ("NodeCompositorFileOutputItem", None),
    // Numbering of sequences of files.
    ("NodeTexImage", None),
    ("NodeTexEnvironment", None),
    ("ImageUser", None),
    ("AnimData", None),
    // Uses of data blocks.
    ("bNodeLink", None),
    ("IDOverrideLibrary", None),
    // Drivers.
    ("FCurve", None),
    ("ChannelDriver", None),
    ("DriverVar", None),
    // Scenes.
    ("ViewLayer", Some(*b"SC")),
    ("SceneRenderLayer", Some(*b"SC")),
    ("SceneRenderView", Some(*b"SC")),
    ("Base", Some(*b"SC")),
    ("TimeMarker", Some(*b"SC")),
];

/// Properties of scenes, which hold the settings of Cycles, and of modifiers, which hold the inputs of their
/// nodes.
const PROPERTY: (&str, Option<[u8; 2]>) = ("IDProperty", None);

/// Members that point to a text.
const TEXTS: [(&str, &str); 8] = [
    ("IDProperty", "data.pointer"),
    ("NodeInputString", "string"),
    ("bNodeTreeInterfaceSocket", "identifier"),
    ("Text", "name"),
    ("Text", "filepath"),
    ("NodesModifierData", "simulation_bake_directory"),
    ("NodesModifierData", "bake_directory"),
    ("NodesModifierBake", "directory"),
];

/// Which blocks are kept, by the numbers that this file gives the structs.
pub(crate) struct Wanted(HashMap<u32, (&'static str, Option<[u8; 2]>)>);

impl Wanted {
    pub(crate) fn new(dna: &Dna<'_>) -> Self {
        let number = |(name, of)| Some((dna.number_of(name)?.0, (name, of)));
        Self(WANTED.into_iter().chain([PROPERTY]).filter_map(number).collect())
    }
}

/// A data block with what belongs to it and is of interest.
pub(crate) struct Group<'d> {
    dna: &'d Dna<'d>,
    /// `SC`, `IM`.
    pub(crate) code: [u8; 2],
    id: Kept,
    data: Vec<Kept>,
    by_address: HashMap<u64, usize>,
    /// Texts that were pointed to, and have not come by.
    awaited: HashSet<u64>,
    /// Addresses of the data blocks that it points to.
    uses: HashSet<u64>,
    bytes: usize,
}

struct Kept {
    /// None for a text, which is no struct.
    structure: Option<&'static str>,
    address: u64,
    head: u64,
    /// Where its bytes stand in the decompressed file.
    at: u64,
    bytes: Vec<u8>,
}

impl<'d> Group<'d> {
    /// Begins with a data block, whose head was just read.
    pub(crate) fn begin(
        dna: &'d Dna<'d>,
        code: [u8; 2],
        pointers: &mut Pointers<'_>,
        block: &Block,
        stream: &mut Stream<'_>,
    ) -> Result<Self, BlendError> {
        let structure = IDS.iter().find(|(of, _)| *of == code).map_or("ID", |(_, name)| name);
        let at = stream.position();
        let bytes = stream.take(block.len_bytes, ID_BYTES_MAX)?;
        let uses = pointers.uses(code, block.structure, &bytes).into_iter().collect();
        let mut group = Self {
            dna,
            code,
            id: Kept {
                structure: Some(structure),
                address: block.address,
                head: block.head,
                at,
                bytes,
            },
            data: Vec::new(),
            by_address: HashMap::new(),
            awaited: HashSet::new(),
            uses,
            bytes: 0,
        };
        let texts = texts(&group.id());
        group.awaited.extend(texts);
        Ok(group)
    }

    /// Takes what belongs to it and is wanted, and passes over the rest.
    pub(crate) fn add(
        &mut self,
        wanted: &Wanted,
        pointers: &mut Pointers<'_>,
        block: &Block,
        stream: &mut Stream<'_>,
    ) -> Result<(), BlendError> {
        let structure = match wanted.0.get(&block.structure) {
            Some((name, of)) if of.is_none_or(|of| of == self.code) => Some(*name),
            _ if self.awaited.contains(&block.address) => None,
            _ => {
                self.uses.extend(read_uses(pointers, self.code, block, stream)?);
                return Ok(());
            }
        };
        let keep_bytes = if structure.is_some() { u64::MAX } else { TEXT_BYTES_MAX };
        if self.data.len() == GROUP_BLOCKS_MAX {
            return Err(BlendError::TooMany {
                what: "parts in a data block",
                limit: GROUP_BLOCKS_MAX,
            });
        }
        let fits = usize::try_from(block.len_bytes.min(keep_bytes)).ok();
        let bytes = fits.and_then(|len_bytes| self.bytes.checked_add(len_bytes));
        let Some(bytes) = bytes.filter(|bytes| *bytes <= GROUP_BYTES_MAX) else {
            return Err(BlendError::TooMany {
                what: "bytes in a data block",
                limit: GROUP_BYTES_MAX,
            });
        };
        self.bytes = bytes;
        let at = stream.position();
        let bytes = stream.take(block.len_bytes, keep_bytes)?;
        if structure.is_some() {
            self.uses.extend(pointers.uses(self.code, block.structure, &bytes));
        }
        // A text that is longer than any path cannot be put back as it was.
        if structure.is_none() && bytes.len() as u64 != block.len_bytes {
            return Ok(());
        }
        self.by_address.insert(block.address, self.data.len());
        self.data.push(Kept { structure, address: block.address, head: block.head, at, bytes });
        if let Some(kept) = self.data.last() {
            let views = kept.views(self.dna);
            let texts: Vec<_> = views.flat_map(|view| texts(&view)).collect();
            self.awaited.extend(texts);
        }
        Ok(())
    }

    /// The data block itself.
    pub(crate) fn id(&self) -> View<'_> {
        View {
            dna: self.dna,
            structure: self.id.structure.unwrap_or("ID"),
            address: self.id.address,
            at: self.id.at,
            bytes: &self.id.bytes,
        }
    }

    /// Addresses of the data blocks that it points to. The data blocks that its nodes show are not included.
    pub(crate) fn uses(&self) -> impl Iterator<Item = &u64> {
        self.uses.iter()
    }

    /// Its name, without the letters that tell the kind.
    pub(crate) fn name(&self) -> String {
        let name = self.id().bytes_of("id.name").or_else(|| self.id().bytes_of("name"));
        name.and_then(|name| name.get(2..)).map(dna::text).unwrap_or_default()
    }

    /// All structs of a kind that belong to it, in the order of the file.
    pub(crate) fn all(&self, structure: &'static str) -> impl Iterator<Item = View<'_>> {
        let is_it = move |kept: &&Kept| kept.structure == Some(structure);
        self.data.iter().filter(is_it).flat_map(|kept| kept.views(self.dna))
    }

    /// The structs at an address, if they are of the kind.
    pub(crate) fn at(
        &self,
        address: u64,
        structure: &'static str,
    ) -> impl Iterator<Item = View<'_>> {
        let kept = self.by_address.get(&address).and_then(|index| self.data.get(*index));
        let kept = kept.filter(|kept| kept.structure == Some(structure));
        kept.into_iter().flat_map(|kept| kept.views(self.dna))
    }

    /// The text at an address, unless it is empty.
    pub(crate) fn text_at(&self, address: u64) -> Option<(String, Field)> {
        let kept = self.data.get(*self.by_address.get(&address)?)?;
        let text = kept.structure.is_none().then(|| dna::path(&kept.bytes))?;
        let length = self.dna.layout().length_place(kept.head);
        (!text.is_empty()).then(|| (text, Field::new(kept.at, &kept.bytes, Some(length))))
    }
}

fn texts(view: &View<'_>) -> Vec<u64> {
    // Properties of other types point to other data.
    if view.structure == "IDProperty" && view.int("type") != Some(0) {
        return Vec::new();
    }
    let of_it = TEXTS.iter().filter(|(structure, _)| *structure == view.structure);
    of_it.filter_map(|(_, member)| view.pointer(member)).collect()
}

impl Kept {
    /// One or many: blocks hold arrays, too.
    fn views<'g>(&'g self, dna: &'g Dna<'g>) -> impl Iterator<Item = View<'g>> {
        let of = self.structure.and_then(|name| Some((name, dna.number_of(name)?.1)));
        let (structure, len_bytes) = of.unwrap_or(("", 0));
        let parts = self.bytes.chunks_exact(len_bytes.max(1)).enumerate();
        parts.filter(move |_| len_bytes > 0).map(move |(index, bytes)| {
            let after = (index * len_bytes) as u64;
            let (address, at) = (self.address.wrapping_add(after), self.at + after);
            View { dna, structure, address, at, bytes }
        })
    }
}

/// A struct in a file.
#[derive(Clone, Copy)]
pub(crate) struct View<'g> {
    dna: &'g Dna<'g>,
    structure: &'static str,
    /// Where it stood in Blender's memory.
    pub(crate) address: u64,
    at: u64,
    bytes: &'g [u8],
}

impl<'g> View<'g> {
    pub(crate) fn has(&self, path: &'static str) -> bool {
        self.dna.at(self.structure, path).is_some()
    }

    fn bytes_of(&self, path: &'static str) -> Option<&'g [u8]> {
        self.dna.at(self.structure, path)?.slice(self.bytes)
    }

    pub(crate) fn int(&self, path: &'static str) -> Option<i32> {
        self.dna.at(self.structure, path)?.int(self.bytes)
    }

    pub(crate) fn float(&self, path: &'static str) -> Option<f32> {
        self.dna.at(self.structure, path)?.float(self.bytes)
    }

    pub(crate) fn text(&self, path: &'static str) -> Option<String> {
        self.dna.at(self.structure, path)?.text(self.bytes)
    }

    /// The address there, unless it is null.
    pub(crate) fn pointer(&self, path: &'static str) -> Option<u64> {
        self.dna.at(self.structure, path)?.unsigned(self.bytes).filter(|address| *address != 0)
    }

    /// Whether any of these bits is set in the number there.
    pub(crate) fn flag(&self, path: &'static str, bits: u64) -> bool {
        let place = self.dna.at(self.structure, path);
        place.and_then(|place| place.unsigned(self.bytes)).is_some_and(|flags| flags & bits != 0)
    }

    /// Which of these two members of an address is there: Blender renames some.
    pub(crate) fn either(&self, path: &'static str, other: &'static str) -> Option<u64> {
        self.pointer(path).or_else(|| self.pointer(other))
    }

    /// The first address of an array of them, unless it is null.
    pub(crate) fn first_pointer(&self, path: &'static str) -> Option<u64> {
        let layout = self.dna.layout();
        let address = self.bytes_of(path)?.get(..layout.address_bytes())?;
        Some(layout.unsigned(address)).filter(|address| *address != 0)
    }

    /// The text there and where it is stored, unless it is empty.
    pub(crate) fn path(&self, path: &'static str) -> Option<(String, Field)> {
        self.path_or_empty(path).filter(|(text, _)| !text.is_empty())
    }

    /// The text there and where it is stored.
    pub(crate) fn path_or_empty(&self, path: &'static str) -> Option<(String, Field)> {
        let place = self.dna.at(self.structure, path)?;
        let bytes = place.slice(self.bytes)?;
        let text = dna::path(bytes);
        let at = self.at + place.offset() as u64;
        Some((text, Field::new(at, bytes, None)))
    }
}
