//! Reads what a .blend says about itself, without Blender.
//!
//! A .blend is a header and a row of blocks, plain or compressed as a whole. Each block is a C struct as it lay
//! in Blender's memory; the last block but one, the DNA, tells how those structs were laid out. So a file is gone
//! through twice: for the DNA, passing over all else, and for what is wanted. A data block, like an object, is
//! followed by what belongs to it, like its modifiers; so one data block at a time is in memory (`group`), and
//! what it says is noted (`notes`).
//!
//! What a file contains is never trusted: any bytes at all give an answer or a [`BlendError`], with bounded
//! memory.

mod bakes;
mod dna;
mod driver;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod hazard;
mod header;
mod imports;
mod needs;
mod notes;
mod numbering;
mod reach;
mod reference;
mod rewrite;
mod scene;
mod stream;
mod strips;
mod survey;
mod text;

use std::{
    fmt,
    io::{Read, Seek},
};

pub use error::BlendError;
pub use hazard::Hazard;
pub use needs::{Needs, SceneNeeds};
pub use numbering::{Numbering, Outside};
pub use reach::{BlockId, Drawn, Sight, Uses};
pub use reference::{Field, Files, Reference, ReferenceKind};
pub use rewrite::{RewriteError, rewrite};
pub use scene::{RenderView, Scene, ViewLayer};
pub use survey::{Survey, survey};
pub use text::{byte_of, bytes_of_text, text_of_bytes};

use crate::{header::Header, stream::Stream};

/// How far a compressed file is followed, in bytes: far above any project, yet the end of a small file that
/// was made to keep the reader busy for ever.
const UNCOMPRESSED_BYTES_MAX: u64 = 16 << 30;

/// Size of the DNA, in bytes: about 150 KB in Blender 5.0.
const DNA_BYTES_MAX: u64 = 4 << 20;

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

/// Reads a whole .blend, as [`survey`] does, for its scenes only. Reads in large pieces, so a buffer around `reader`
/// gains nothing.
///
/// # Errors
/// When the bytes are not a whole, sound .blend of a known form, or cannot be read.
pub fn read(reader: impl Read + Seek) -> Result<BlendFile, BlendError> {
    Ok(survey::survey_limited(reader, UNCOMPRESSED_BYTES_MAX)?.file)
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

#[cfg(test)]
mod tests;
