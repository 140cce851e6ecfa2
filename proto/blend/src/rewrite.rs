//! Puts other paths into a .blend.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use crate::{
    BlendError, Compression, Field,
    reference::{Part, digest},
    stream::{Stream, UNCOMPRESSED_BYTES_MAX},
};

/// How hard is compressed, which Blender does as hard.
const ZSTD_LEVEL: i32 = 3;

/// Bytes copied at a time.
const COPIED_BYTES: u64 = 1 << 20;

/// Why paths cannot be put into a .blend. Each text is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The file cannot be read.
    #[error(transparent)]
    Blend(#[from] BlendError),
    /// A text does not fit.
    #[error(
        "the path `{text}` has more than the {capacity} bytes that the .blend has for it; use shorter names"
    )]
    TooLong {
        /// The text.
        text: String,
        /// How many bytes would fit.
        capacity: usize,
    },
    /// A text would end early.
    #[error("the path `{0}` has a zero in it, which no path may have; rename the file")]
    Zero(String),
    /// Something else is where a path was.
    #[error("the file changed while it was read; submit it again when nothing writes it")]
    Changed,
    /// The copy cannot be written.
    #[error("the copy of the .blend cannot be written: {0}; check the disk and its free space")]
    Unwritable(#[source] io::Error),
}

/// Bytes that take the place of others.
struct Patch {
    at: u64,
    len_bytes: usize,
    /// Of what must be there, where that is known.
    digest: Option<u64>,
    bytes: Vec<u8>,
}

/// Copies a .blend, compressed as it was, with other texts in some of its path fields. The same file and texts give
/// the same bytes.
///
/// # Errors
/// When a text is too long for its field, the file is not the one the fields are of, or a disk refuses.
pub fn rewrite(
    from: &Path,
    to: &mut impl Write,
    texts: &[(Field, String)],
) -> Result<(), RewriteError> {
    rewrite_from(File::open(from).map_err(BlendError::Unreadable)?, to, texts)
}

pub(crate) fn rewrite_from(
    from: impl Read,
    to: &mut impl Write,
    texts: &[(Field, String)],
) -> Result<(), RewriteError> {
    let patches = patches(texts)?;
    let mut stream = Stream::open(from, UNCOMPRESSED_BYTES_MAX)?;
    match stream.compression() {
        Compression::None => copy(&mut stream, to, &patches),
        Compression::Gzip => {
            let mut to = flate2::write::GzEncoder::new(to, flate2::Compression::default());
            copy(&mut stream, &mut to, &patches)?;
            to.finish().map(drop).map_err(RewriteError::Unwritable)
        }
        Compression::Zstd => {
            let to = zstd::Encoder::new(to, ZSTD_LEVEL).map_err(RewriteError::Unwritable);
            let mut to = to?;
            copy(&mut stream, &mut to, &patches)?;
            to.finish().map(drop).map_err(RewriteError::Unwritable)
        }
    }
}

/// In the order of the file.
fn patches(texts: &[(Field, String)]) -> Result<Vec<Patch>, RewriteError> {
    let mut patches = Vec::new();
    for (field, text) in texts {
        if text.contains('\0') {
            return Err(RewriteError::Zero(text.clone()));
        }
        let (text, name) = match field.name {
            Some(_) => text.rsplit_once('/').map_or(("", &**text), |(folder, name)| {
                // With the slash.
                (&text[..=folder.len()], name)
            }),
            None => (&**text, ""),
        };
        if let Some(part) = field.name {
            let mut bytes = fitting(name, part.len_bytes.saturating_sub(1))?;
            bytes.resize(part.len_bytes, 0);
            let Part { at, len_bytes, digest } = part;
            patches.push(Patch { at, len_bytes, digest: Some(digest), bytes });
        }
        let mut bytes = fitting(text, field.capacity())?;
        if let Some(block) = field.block {
            // Blender rounds blocks to four bytes.
            bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
            let length = block.written(bytes.len() as u64);
            patches.push(Patch {
                at: block.at,
                len_bytes: length.len(),
                digest: None,
                bytes: length,
            });
        } else {
            bytes.resize(field.len_bytes, 0);
        }
        let digest = Some(field.digest);
        patches.push(Patch { at: field.at, len_bytes: field.len_bytes, digest, bytes });
    }
    patches.sort_by_key(|patch| patch.at);
    Ok(patches)
}

fn fitting(text: &str, capacity: usize) -> Result<Vec<u8>, RewriteError> {
    if text.len() > capacity {
        return Err(RewriteError::TooLong { text: text.to_owned(), capacity });
    }
    Ok(text.as_bytes().to_vec())
}

fn copy(
    stream: &mut Stream<'_>,
    to: &mut impl Write,
    patches: &[Patch],
) -> Result<(), RewriteError> {
    for patch in patches {
        // Also where a field is named twice.
        let before = patch.at.checked_sub(stream.position()).ok_or(RewriteError::Changed)?;
        if copy_bytes(stream, to, before)? < before {
            return Err(RewriteError::Changed);
        }
        let was = stream.up_to(patch.len_bytes as u64)?;
        let is_same = patch.digest.is_none_or(|expected| digest(&was) == expected);
        if was.len() != patch.len_bytes || !is_same {
            return Err(RewriteError::Changed);
        }
        to.write_all(&patch.bytes).map_err(RewriteError::Unwritable)?;
    }
    while copy_bytes(stream, to, COPIED_BYTES)? > 0 {}
    Ok(())
}

/// Copies up to `len_bytes` bytes; says how many there were.
fn copy_bytes(
    stream: &mut Stream<'_>,
    to: &mut impl Write,
    len_bytes: u64,
) -> Result<u64, RewriteError> {
    let mut left = len_bytes;
    while left > 0 {
        let bytes = stream.up_to(left.min(COPIED_BYTES))?;
        if bytes.is_empty() {
            break;
        }
        to.write_all(&bytes).map_err(RewriteError::Unwritable)?;
        left -= bytes.len() as u64;
    }
    Ok(len_bytes - left)
}
