//! Reads what a .blend says about itself, without Blender.
//!
//! A .blend is a header and a row of blocks, plain or compressed as a whole. Each block is a C struct as it lay
//! in Blender's memory; the last block but one, the DNA, tells how those structs were laid out. So [`read`]
//! goes through the whole file once, keeps the scenes, and reads them when the DNA has come by.
//!
//! What a file contains is never trusted: any bytes at all give an answer or a [`BlendError`], with bounded
//! memory.

mod dna;
mod error;
mod header;
mod scene;
mod stream;

use std::{fmt, io::Read};

pub use error::BlendError;
pub use scene::Scene;

use crate::{dna::Dna, header::Header, stream::Stream};

/// How far a compressed file is followed, in bytes: far above any project, yet the end of a small file that
/// was made to keep the reader busy for ever.
const UNCOMPRESSED_BYTES_MAX: u64 = 16 << 30;

/// Size of the DNA, in bytes: about 150 KB in Blender 5.0.
const DNA_BYTES_MAX: u64 = 4 << 20;

/// What is kept of a scene, in bytes: its struct has 6 to 9 KB.
const SCENE_BYTES_MAX: u64 = 64 << 10;

/// Scenes in a file. Together with what is kept of each: 64 MiB at most.
const SCENES_MAX: usize = 1_000;

/// As many bytes of a .blend as [`read_version`] needs to see: a zstd block of the largest size, and what may
/// lie before it.
pub const VERSION_PREFIX_BYTES: usize = 256 << 10;

/// The version of Blender that saved a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlenderVersion {
    /// As in 4 of 4.5.
    pub major: u16,
    /// As in 5 of 4.5.
    pub minor: u16,
}

impl fmt::Display for BlenderVersion {
    /// As Blender writes it: `2.79`, `2.90`, `4.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.major < 3 {
            write!(f, "{}.{:02}", self.major, self.minor)
        } else {
            write!(f, "{}.{}", self.major, self.minor)
        }
    }
}

/// How a .blend is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip, as up to Blender 2.93.
    Gzip,
    /// By Zstandard, as since Blender 3.0.
    Zstd,
}

/// What a .blend says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlendFile {
    /// What saved it.
    pub version: BlenderVersion,
    /// How it is compressed.
    pub compression: Compression,
    /// Its scenes, in the order of the file. A library may have none.
    pub scenes: Vec<Scene>,
    /// Which of the scenes was open when it was saved, and is rendered if none is named.
    pub active_scene: usize,
}

impl BlendFile {
    /// The scene that is rendered if none is named.
    #[must_use]
    pub fn active(&self) -> Option<&Scene> {
        self.scenes.get(self.active_scene)
    }
}

/// Reads a whole .blend. Reads in large pieces, so a buffer around `reader` gains nothing.
///
/// # Errors
/// When the bytes are not a whole, sound .blend of a known form, or cannot be read.
pub fn read(reader: impl Read) -> Result<BlendFile, BlendError> {
    read_limited(reader, UNCOMPRESSED_BYTES_MAX)
}

/// Reads which Blender saved a .blend, from its first bytes: a file cut off after [`VERSION_PREFIX_BYTES`]
/// will do.
///
/// # Errors
/// When the bytes do not begin a .blend of a known form, or cannot be read.
pub fn read_version(reader: impl Read) -> Result<BlenderVersion, BlendError> {
    let mut stream = Stream::open(reader, UNCOMPRESSED_BYTES_MAX)?;
    Ok(Header::read(&mut stream)?.version)
}

fn read_limited(reader: impl Read, limit_bytes: u64) -> Result<BlendFile, BlendError> {
    let mut stream = Stream::open(reader, limit_bytes)?;
    let Header { version, layout } = Header::read(&mut stream)?;
    let mut dna = None;
    let mut global = None;
    let mut scenes = Vec::new();
    while let Some(block) = layout.read_block(&mut stream)? {
        // Codes of two letters lie in the other half of the number where it was written big-endian.
        match &block.code {
            b"DNA1" if block.len_bytes > DNA_BYTES_MAX => {
                return Err(BlendError::Damaged("its DNA is too large"));
            }
            b"DNA1" => dna = Some(stream.take(block.len_bytes, DNA_BYTES_MAX)?),
            b"GLOB" => global = Some(stream.take(block.len_bytes, SCENE_BYTES_MAX)?),
            b"SC\0\0" | b"\0\0SC" if scenes.len() == SCENES_MAX => {
                return Err(BlendError::Damaged("it has too many scenes"));
            }
            b"SC\0\0" | b"\0\0SC" => {
                let bytes = stream.take(block.len_bytes, SCENE_BYTES_MAX)?;
                scenes.push((block.address, bytes));
            }
            _ => stream.skip(block.len_bytes)?,
        }
    }
    let dna = dna.ok_or(BlendError::Damaged("it has no DNA"))?;
    let dna = Dna::parse(&dna, layout).ok_or(BlendError::Damaged("its DNA makes no sense"))?;
    let open = global.and_then(|global| dna.at("FileGlobal", "curscene")?.unsigned(&global));
    let active = scenes.iter().position(|(address, _)| Some(*address) == open);
    let scenes: Option<Vec<_>> =
        (scenes.iter()).map(|(_, bytes)| Scene::parse(&dna, bytes)).collect();
    Ok(BlendFile {
        version,
        compression: stream.compression(),
        scenes: scenes.ok_or(BlendError::Damaged("a scene of it makes no sense"))?,
        active_scene: active.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests;
