//! Finds which data blocks the bytes of a block point to.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use crate::{BlendError, dna::Dna, header::Block, stream::Stream};

/// Maximum size of a block without a struct that is searched for pointers, enough for the 8,000 materials of a
/// mesh. A larger one contains points and the like.
const POINTERS_BYTES_MAX: u64 = 64 << 10;

/// Maximum size of a block of structs that is searched for pointers.
const STRUCTS_BYTES_MAX: u64 = 64 << 20;

/// Structs that only the interface needs (brushes and their targets, background images of cameras), and structs
/// about what an override replaces.
const IDLE_STRUCTS: [&str; 18] = [
    "ToolSettings",
    "ImagePaintSettings",
    "Paint",
    "VPaint",
    "Sculpt",
    "UvSculpt",
    "GpPaint",
    "GpVertexPaint",
    "GpSculptPaint",
    "GpWeightPaint",
    "CurvesSculpt",
    "ParticleEditSettings",
    "PaintToolSlot",
    "CameraBGImage",
    "IDOverrideLibrary",
    "IDOverrideLibraryPropertyOperation",
    "IDPropertyUIDataID",
    // What strips show is checked strip by strip.
    "Sequence",
];

/// Finds the pointers to data blocks in blocks.
pub(crate) struct Pointers<'d> {
    dna: &'d Dna<'d>,
    /// The addresses of all data blocks of the file.
    ids: HashSet<u64>,
    /// The size of each struct, and the offsets of its pointers.
    places: HashMap<u32, PointerOffsets>,
}

/// The size of a struct in bytes, and the offsets of its pointers.
#[derive(Clone, Default)]
struct PointerOffsets(usize, Rc<[usize]>);

impl<'d> Pointers<'d> {
    pub(crate) fn new(dna: &'d Dna<'d>, ids: HashSet<u64>) -> Self {
        Self { dna, ids, places: HashMap::new() }
    }

    /// Returns how many bytes of a block with this struct must be read.
    pub(crate) fn len_bytes(&mut self, code: [u8; 2], structure: u32, len_bytes: u64) -> u64 {
        // Struct number 0 stands for bytes of any kind.
        if structure == 0 && len_bytes > POINTERS_BYTES_MAX {
            return 0;
        }
        let PointerOffsets(_, places) = self.places_of(code, structure);
        if structure != 0 && places.is_empty() { 0 } else { len_bytes.min(STRUCTS_BYTES_MAX) }
    }

    /// Returns the data blocks to which these bytes of a block point.
    pub(crate) fn uses(&mut self, code: [u8; 2], structure: u32, bytes: &[u8]) -> Vec<u64> {
        let layout = self.dna.layout();
        let width = layout.address_bytes();
        let PointerOffsets(len_bytes, places) = match structure {
            0 => PointerOffsets(width, Rc::from([0])),
            _ => self.places_of(code, structure),
        };
        let mut uses = Vec::new();
        for structure in bytes.chunks_exact(len_bytes.max(1)) {
            for place in &*places {
                let pointer = structure.get(*place..place.saturating_add(width));
                let address = pointer.map(|bytes| layout.unsigned(bytes));
                uses.extend(address.filter(|address| self.ids.contains(address)));
            }
        }
        uses
    }

    fn places_of(&mut self, code: [u8; 2], structure: u32) -> PointerOffsets {
        let Some(name) = self.dna.name_of(structure) else { return PointerOffsets::default() };
        // In Blender 2.7x these had texture slots, which no later version reads.
        let is_slot_of_old = name == b"MTex" && matches!(&code, b"MA" | b"WO" | b"LA");
        if is_slot_of_old || is_idle(name) {
            return PointerOffsets::default();
        }
        let dna = self.dna;
        let places = self.places.entry(structure).or_insert_with(|| {
            PointerOffsets(dna.len_bytes_of(name).unwrap_or(0), dna.id_pointers(name).into())
        });
        places.clone()
    }
}

fn is_idle(structure: &[u8]) -> bool {
    // What nodes show is checked node by node.
    structure == b"bNode" || IDLE_STRUCTS.iter().any(|idle| idle.as_bytes() == structure)
}

/// Reads the parts of a block that point to data blocks, and skips the rest.
pub(crate) fn read_uses(
    pointers: &mut Pointers<'_>,
    code: [u8; 2],
    block: &Block,
    stream: &mut Stream<'_>,
) -> Result<Vec<u64>, BlendError> {
    let len_bytes = pointers.len_bytes(code, block.structure, block.len_bytes);
    if len_bytes == 0 {
        stream.skip(block.len_bytes)?;
        return Ok(Vec::new());
    }
    let bytes = stream.take(block.len_bytes, len_bytes)?;
    Ok(pointers.uses(code, block.structure, &bytes))
}
