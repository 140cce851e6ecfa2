//! Reads a .blend for its scenes, or for its version only.

use std::io::{Read, Seek};

use crate::{
    BlendError, BlendFile, BlenderVersion,
    header::Header,
    stream::{Stream, UNCOMPRESSED_BYTES_MAX},
    survey::survey_limited,
};

/// As many bytes of a .blend as [`read_version`] needs to see: a zstd block of the largest size, and what may
/// lie before it.
pub const VERSION_PREFIX_BYTES: usize = 256 << 10;

/// Reads a whole .blend, as [`survey`] does, for its scenes only. Reads in large pieces, so a buffer around `reader`
/// gains nothing.
///
/// # Errors
/// When the bytes are not a whole, sound .blend of a known form, or cannot be read.
pub fn read(reader: impl Read + Seek) -> Result<BlendFile, BlendError> {
    Ok(survey_limited(reader, UNCOMPRESSED_BYTES_MAX)?.file)
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
