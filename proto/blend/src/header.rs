//! The first bytes of a .blend, and how they say the rest is laid out.

use crate::{BlendError, BlenderVersion, stream::Stream};

/// The part of the header that all forms share, and one byte that tells them apart.
const START_BYTES: u64 = 8;

/// What the header says.
pub(crate) struct Header {
    pub(crate) version: BlenderVersion,
    pub(crate) layout: Layout,
}

/// How numbers, addresses and blocks are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    big_endian: bool,
    wide_addresses: bool,
    wide_blocks: bool,
}

/// What precedes a block's bytes.
pub(crate) struct Block {
    pub(crate) code: [u8; 4],
    pub(crate) len_bytes: u64,
    /// Where the block lay in Blender's memory: by this, others refer to it.
    pub(crate) address: u64,
    /// The number of its struct in the DNA.
    pub(crate) structure: u32,
    /// Where its head stands in the decompressed file.
    pub(crate) head: u64,
}

/// Where a block's head says how long the block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LengthPlace {
    pub(crate) at: u64,
    pub(crate) len_bytes: usize,
    big_endian: bool,
}

impl LengthPlace {
    /// What is to stand there for a block of `len_bytes` bytes.
    pub(crate) fn written(self, len_bytes: u64) -> Vec<u8> {
        if self.big_endian {
            len_bytes.to_be_bytes()[8 - self.len_bytes..].to_vec()
        } else {
            len_bytes.to_le_bytes()[..self.len_bytes].to_vec()
        }
    }
}

impl Header {
    pub(crate) fn read(stream: &mut Stream<'_>) -> Result<Self, BlendError> {
        let start = stream.up_to(START_BYTES)?;
        let Some((form, b"BLENDER")) = start.split_last() else {
            let more = stream.up_to(64)?;
            return Err(not_a_blend(&[start, more].concat()));
        };
        match form {
            b'_' | b'-' => Self::read_old(stream, *form == b'-'),
            b'0'..=b'9' => Self::read_new(stream, *form),
            _ => Err(BlendError::Damaged("its header makes no sense")),
        }
    }

    /// `BLENDER-v304`: address width, byte order, version.
    fn read_old(stream: &mut Stream<'_>, wide_addresses: bool) -> Result<Self, BlendError> {
        let [order, version @ ..] = stream.array::<4>()?;
        Ok(Self {
            version: version_from(&version)?,
            layout: Layout {
                big_endian: is_big_endian(order)?,
                wide_addresses,
                wide_blocks: false,
            },
        })
    }

    /// `BLENDER17-01v0502`, since Blender 5.0: the header's size, address width, the form's number, byte order,
    /// version.
    fn read_new(stream: &mut Stream<'_>, first: u8) -> Result<Self, BlendError> {
        let rest = stream.array::<9>()?;
        let (b'1', [b'7', b'-', b'0', b'1', order, version @ ..]) = (first, rest) else {
            let start = char::from(first);
            let rest = String::from_utf8_lossy(&rest);
            return Err(BlendError::NewerForm(format!("BLENDER{start}{rest}")));
        };
        Ok(Self {
            version: version_from(&version)?,
            layout: Layout {
                big_endian: is_big_endian(order)?,
                wide_addresses: true,
                wide_blocks: true,
            },
        })
    }
}

fn is_big_endian(order: u8) -> Result<bool, BlendError> {
    match order {
        b'v' => Ok(false),
        b'V' => Ok(true),
        _ => Err(BlendError::Damaged("its header makes no sense")),
    }
}

/// `279`, `304`, `0502`: two digits of minor version, the rest is the major one.
fn version_from(digits: &[u8]) -> Result<BlenderVersion, BlendError> {
    let mut number = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(BlendError::Damaged("its version is not a number"));
        }
        number = number * 10 + u16::from(digit - b'0');
    }
    Ok(BlenderVersion::new(number / 100, number % 100))
}

impl Layout {
    /// The next block's head; none at the end mark.
    pub(crate) fn read_block(self, stream: &mut Stream<'_>) -> Result<Option<Block>, BlendError> {
        let head = stream.position();
        let code = stream.array::<4>()?;
        if &code == b"ENDB" {
            return Ok(None);
        }
        // Letters, and the zeros that fill up a code of two: else the reader is lost, and would go on from zero to
        // zero for ever.
        if !code.iter().any(|byte| byte.is_ascii_alphanumeric()) {
            return Err(BlendError::Damaged("a block's code makes no sense"));
        }
        let (len_bytes, address, structure);
        if self.wide_blocks {
            structure = self.unsigned(&stream.array::<4>()?);
            address = self.unsigned(&stream.array::<8>()?);
            len_bytes = self.unsigned(&stream.array::<8>()?);
            let _count = stream.array::<8>()?;
        } else {
            len_bytes = self.unsigned(&stream.array::<4>()?);
            address = if self.wide_addresses {
                self.unsigned(&stream.array::<8>()?)
            } else {
                self.unsigned(&stream.array::<4>()?)
            };
            structure = self.unsigned(&stream.array::<4>()?);
            let _count = stream.array::<4>()?;
        }
        // A negative length.
        if len_bytes > i64::MAX as u64 || (!self.wide_blocks && len_bytes > i32::MAX as u64) {
            return Err(BlendError::Damaged("a block's length makes no sense"));
        }
        // Four bytes, so it fits.
        let structure = structure as u32;
        Ok(Some(Block { code, len_bytes, address, structure, head }))
    }

    /// Where the head of a block that stands at `head` says how long the block is.
    pub(crate) fn length_place(self, head: u64) -> LengthPlace {
        let (after, len_bytes) = if self.wide_blocks { (16, 8) } else { (4, 4) };
        LengthPlace { at: head.saturating_add(after), len_bytes, big_endian: self.big_endian }
    }

    /// The number in up to eight bytes.
    pub(crate) fn unsigned(self, bytes: &[u8]) -> u64 {
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
    }

    pub(crate) fn address_bytes(self) -> usize {
        if self.wide_addresses { 8 } else { 4 }
    }
}

/// Says what a file is that people hand in by mistake.
fn not_a_blend(start: &[u8]) -> BlendError {
    let what = match start {
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', b'h', b't', b't', b'p', ..] => {
            return BlendError::LfsPointer;
        }
        // Any start of the magic word: nothing else is so short and begins like it.
        _ if b"BLENDER".starts_with(start) => return BlendError::Truncated,
        [0x89, b'P', b'N', b'G', ..] => "a PNG image",
        [0xff, 0xd8, 0xff, ..] => "a JPEG image",
        [0x76, 0x2f, 0x31, 0x01, ..] => "an OpenEXR image",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        [b'7', b'z', 0xbc, 0xaf, ..] => "a 7z archive",
        [b'R', b'a', b'r', b'!', ..] => "a RAR archive",
        [b'g', b'l', b'T', b'F', ..] => "a glTF model",
        [b'K', b'a', b'y', b'd', b'a', b'r', b'a', ..] => "an FBX model",
        [b'R', b'I', b'F', b'F', ..] => "an AVI, WAV or WebP file",
        [b'<', ..] => "a web page or XML",
        _ if start.iter().all(|&byte| byte == 0) => "a row of zeros",
        // The last character may be cut in two.
        _ if std::str::from_utf8(start).map_or_else(|e| e.error_len().is_none(), |_| true) => {
            "text"
        }
        _ => "something else",
    };
    BlendError::NotABlend(what)
}
