//! Goes through a .blend and notes what it refers to.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use crate::{
    BlendError, BlendFile, DNA_BYTES_MAX, Files, Hazard, Reference, ReferenceKind, Scene,
    UNCOMPRESSED_BYTES_MAX,
    dna::Dna,
    group::{Group, View, Wanted},
    header::{Block, Header},
    reference::Field,
    stream::Stream,
};

/// Blocks of a file: five to ten times those of the largest film sets. Each is looked at, twice.
const BLOCKS_MAX: usize = 20_000_000;

/// Scenes of a file.
pub(crate) const SCENES_MAX: usize = 1_000;

/// Paths of a file, of 1 KB each at most.
const REFERENCES_MAX: usize = 100_000;

/// Hazards of a file: nobody reads more.
const HAZARDS_MAX: usize = 10_000;

/// What is kept of the block about the whole file.
const GLOBAL_BYTES_MAX: u64 = 64 << 10;

/// What a .blend says about itself, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The file itself.
    pub file: BlendFile,
    /// What it refers to outside itself, in the order of the file. One path may be there many times.
    pub references: Vec<Reference>,
    /// What will go wrong without a word.
    pub hazards: Vec<Hazard>,
}

/// Reads the scenes and everything the file refers to outside itself. Goes through the file twice: the layout of
/// its structs stands at its end.
///
/// # Errors
/// When the bytes are not a whole, sound .blend of a known form, or cannot be read.
pub fn survey(path: &Path) -> Result<Survey, BlendError> {
    survey_limited(File::open(path).map_err(BlendError::Unreadable)?, UNCOMPRESSED_BYTES_MAX)
}

pub(crate) fn survey_limited(
    mut reader: impl Read + Seek,
    limit_bytes: u64,
) -> Result<Survey, BlendError> {
    let dna = dna_bytes(Stream::open_seekable(&mut reader, limit_bytes)?)?;
    let mut stream = Stream::open_seekable(&mut reader, limit_bytes)?;
    let Header { version, layout } = Header::read(&mut stream)?;
    let dna = Dna::parse(&dna, layout).ok_or(BlendError::Damaged("its DNA makes no sense"))?;
    let wanted = Wanted::new(&dna);
    let mut notes = Notes::default();
    let mut open = None;
    let mut group = None;
    each_block(&mut stream, layout, |block, stream| {
        if &block.code == b"DATA" {
            return match &mut group {
                Some(group) => Group::add(group, &wanted, block, stream),
                None => stream.skip(block.len_bytes),
            };
        }
        if let Some(group) = group.take() {
            notes.group(&group)?;
        }
        // Codes of two letters lie in the other half of the number where it was written big-endian.
        match block.code {
            [0, 0, a, b] | [a, b, 0, 0] => {
                group = Some(Group::begin(&dna, [a, b], block, stream)?);
                Ok(())
            }
            [b'G', b'L', b'O', b'B'] => {
                let global = stream.take(block.len_bytes, GLOBAL_BYTES_MAX)?;
                open = dna.at("FileGlobal", "curscene").and_then(|at| at.unsigned(&global));
                Ok(())
            }
            _ => stream.skip(block.len_bytes),
        }
    })?;
    if let Some(group) = group.take() {
        notes.group(&group)?;
    }
    let active = notes.scenes.iter().position(|(address, _)| Some(*address) == open);
    Ok(Survey {
        file: BlendFile {
            version,
            compression: stream.compression(),
            scenes: notes.scenes.into_iter().map(|(_, scene)| scene).collect(),
            active_scene: active.unwrap_or(0),
        },
        references: notes.references,
        hazards: notes.hazards,
    })
}

fn dna_bytes(mut stream: Stream<'_>) -> Result<Vec<u8>, BlendError> {
    let Header { layout, .. } = Header::read(&mut stream)?;
    let mut dna = None;
    each_block(&mut stream, layout, |block, stream| match &block.code {
        b"DNA1" if block.len_bytes > DNA_BYTES_MAX => {
            Err(BlendError::Damaged("its DNA is too large"))
        }
        b"DNA1" => {
            dna = Some(stream.take(block.len_bytes, DNA_BYTES_MAX)?);
            Ok(())
        }
        _ => stream.skip(block.len_bytes),
    })?;
    dna.ok_or(BlendError::Damaged("it has no DNA"))
}

/// Reads the head of each block; the rest of it is read by `then`.
fn each_block<'a>(
    stream: &mut Stream<'a>,
    layout: crate::header::Layout,
    mut then: impl FnMut(&Block, &mut Stream<'a>) -> Result<(), BlendError>,
) -> Result<(), BlendError> {
    for _ in 0..BLOCKS_MAX {
        match layout.read_block(stream)? {
            Some(block) => then(&block, stream)?,
            None => return Ok(()),
        }
    }
    Err(BlendError::TooMany { what: "blocks", limit: BLOCKS_MAX })
}

/// What was found so far.
#[derive(Default)]
struct Notes {
    /// With their addresses.
    scenes: Vec<(u64, Scene)>,
    references: Vec<Reference>,
    hazards: Vec<Hazard>,
}

impl Notes {
    fn group(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        match &group.code {
            b"SC" => self.scene(group),
            b"LI" => self.library(group),
            b"IM" => self.image(group),
            _ => Ok(()),
        }
    }

    fn scene(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        if self.scenes.len() == SCENES_MAX {
            return Err(BlendError::TooMany { what: "scenes", limit: SCENES_MAX });
        }
        let scene = Scene::parse(&group.id());
        let scene = scene.ok_or(BlendError::Damaged("a scene of it makes no sense"))?;
        self.scenes.push((group.id().address, scene));
        Ok(())
    }

    fn library(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let library = group.id();
        if library.pointer("packedfile").is_some() {
            return Ok(());
        }
        let path = library.path("name");
        self.refer(ReferenceKind::Library, group.name(), path, Files::One)
    }

    fn image(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let image = group.id();
        // Since Blender 2.77 packed files are a list.
        if image.pointer("packedfile").is_some() || image.pointer("packedfiles.first").is_some() {
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
        let views = group.all("ImageView").filter_map(|view| view.path("filepath"));
        for path in image.path("name").into_iter().chain(views) {
            self.refer(kind, group.name(), Some(path), files.clone())?;
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
        if self.references.len() == REFERENCES_MAX {
            return Err(BlendError::TooMany { what: "paths", limit: REFERENCES_MAX });
        }
        self.references.push(Reference { kind, owner, path, files, field });
        Ok(())
    }
}
