//! Goes through a .blend and notes what it refers to.

use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use crate::{
    BlendError, BlendFile, BlockId, Drawn, Hazard, Needs, Reference, Scene, Uses,
    dna::Dna,
    group::{Group, Wanted},
    hazard::About,
    header::{Block, Header, Layout},
    notes::{DISK_CACHES, Notes},
    pointers::Pointers,
    stream::{Stream, UNCOMPRESSED_BYTES_MAX},
    uses::DATA_BLOCKS_MAX,
};

/// Blocks of a file: five to ten times those of the largest film sets. Each is looked at, twice.
const BLOCKS_MAX: usize = 20_000_000;

/// Size of the DNA, in bytes: about 150 KB in Blender 5.0.
pub(crate) const DNA_BYTES_MAX: u64 = 4 << 20;

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
    /// What it needs of the Blender that draws it.
    pub needs: Needs,
    /// The subject of each hazard.
    hazards_about: Vec<About>,
    /// Which data blocks use which.
    pub uses: Uses,
    /// The data blocks of its scenes, in their order.
    scene_blocks: Vec<BlockId>,
}

impl Survey {
    /// Returns the data block of a scene. An empty name stands for the active scene.
    #[must_use]
    pub fn scene_block(&self, name: &str) -> Option<BlockId> {
        let is_it = |scene: &Scene| scene.name == name;
        let place = match name {
            "" => Some(self.file.active_scene),
            _ => self.file.scenes.iter().position(is_it),
        };
        self.scene_blocks.get(place?).copied()
    }

    /// Drops the hazards of data blocks that are not drawn. Scripts are kept, because they run anyway.
    pub fn keep_hazards(&mut self, drawn: &Drawn) {
        self.retain_hazards(|hazard, about| {
            matches!(hazard, Hazard::RegisteredText { .. }) || drawn.contains(about.block)
        });
    }

    /// Drops the hazards of simulations that are stored in folders. `has_bake` tells whether a folder has a bake;
    /// it gets the path as stored in the file.
    pub fn forget_baked(&mut self, has_bake: impl Fn(&str) -> bool) {
        self.retain_hazards(|_, About { folders, .. }| {
            let is_baked = |any: &Vec<String>| any.iter().any(|folder| has_bake(folder));
            folders.is_empty() || !folders.iter().all(is_baked)
        });
    }

    fn retain_hazards(&mut self, is_kept: impl Fn(&Hazard, &About) -> bool) {
        let hazards = std::mem::take(&mut self.hazards);
        let about = std::mem::take(&mut self.hazards_about);
        let kept = hazards.into_iter().zip(about).filter(|(hazard, about)| is_kept(hazard, about));
        (self.hazards, self.hazards_about) = kept.unzip();
    }
}

/// Reads the scenes and everything the file refers to outside itself. Goes through the file twice: the layout of
/// its structs stands at its end.
///
/// # Errors
/// When the bytes are not a whole, sound .blend of a known form, or cannot be read.
pub fn survey(path: &Path) -> Result<Survey, BlendError> {
    let file = File::open(path).map_err(BlendError::Unreadable)?;
    let mut survey = survey_limited(file, UNCOMPRESSED_BYTES_MAX)?;
    // Blender names the folder of caches by the .blend.
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    for reference in &mut survey.references {
        if reference.path == DISK_CACHES {
            reference.path.push_str(&stem);
        }
    }
    Ok(survey)
}

pub(crate) fn survey_limited(
    mut reader: impl Read + Seek,
    limit_bytes: u64,
) -> Result<Survey, BlendError> {
    let (dna, ids) = dna_and_ids(Stream::open_seekable(&mut reader, limit_bytes)?)?;
    let mut stream = Stream::open_seekable(&mut reader, limit_bytes)?;
    let Header { version, layout } = Header::read(&mut stream)?;
    let dna = Dna::parse(&dna, layout).ok_or(BlendError::Damaged("its DNA makes no sense"))?;
    let wanted = Wanted::new(&dna);
    let mut pointers = Pointers::new(&dna, ids);
    let mut notes = Notes::new(version);
    let mut open = None;
    let mut group = None;
    each_block(&mut stream, layout, |block, stream| {
        if &block.code == b"DATA" {
            return match &mut group {
                Some(group) => Group::add(group, &wanted, &mut pointers, block, stream),
                None => stream.skip(block.len_bytes),
            };
        }
        if let Some(group) = group.take() {
            notes.group(&group)?;
        }
        // Codes of two letters lie in the other half of the number where it was written big-endian.
        match block.code {
            [0, 0, a, b] | [a, b, 0, 0] => {
                group = Some(Group::begin(&dna, [a, b], &mut pointers, block, stream)?);
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
    notes.finish()?;
    let active = notes.scenes.iter().position(|(address, ..)| Some(*address) == open);
    let scene_blocks = notes.scenes.iter().map(|(.., links)| links.block).collect();
    Ok(Survey {
        file: BlendFile {
            version,
            compression: stream.compression(),
            scenes: notes.scenes.into_iter().map(|(_, scene, _)| scene).collect(),
            active_scene: active.unwrap_or(0),
        },
        references: notes.references,
        hazards: notes.hazards,
        needs: notes.needs.into_needs(),
        hazards_about: notes.hazards_about,
        uses: notes.blocks.finish(),
        scene_blocks,
    })
}

/// Returns the DNA and the addresses of all data blocks.
fn dna_and_ids(mut stream: Stream<'_>) -> Result<(Vec<u8>, HashSet<u64>), BlendError> {
    let Header { layout, .. } = Header::read(&mut stream)?;
    let mut dna = None;
    let mut ids = HashSet::new();
    each_block(&mut stream, layout, |block, stream| match &block.code {
        b"DNA1" if block.len_bytes > DNA_BYTES_MAX => {
            Err(BlendError::Damaged("its DNA is too large"))
        }
        b"DNA1" => {
            dna = Some(stream.take(block.len_bytes, DNA_BYTES_MAX)?);
            Ok(())
        }
        [0, 0, ..] | [.., 0, 0] if ids.len() < DATA_BLOCKS_MAX => {
            ids.insert(block.address);
            stream.skip(block.len_bytes)
        }
        _ => stream.skip(block.len_bytes),
    })?;
    ids.remove(&0);
    Ok((dna.ok_or(BlendError::Damaged("it has no DNA"))?, ids))
}

/// Reads the head of each block; the rest of it is read by `then`.
fn each_block<'a>(
    stream: &mut Stream<'a>,
    layout: Layout,
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
