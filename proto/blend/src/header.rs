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
    Ok(BlenderVersion { major: number / 100, minor: number % 100 })
}

impl Layout {
    /// The next block's head; none at the end mark.
    pub(crate) fn read_block(self, stream: &mut Stream<'_>) -> Result<Option<Block>, BlendError> {
        let code = stream.array::<4>()?;
        if &code == b"ENDB" {
            return Ok(None);
        }
        let (len_bytes, address);
        if self.wide_blocks {
            let _struct = stream.array::<4>()?;
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
            let _struct_and_count = stream.array::<8>()?;
        }
        // A negative length.
        if len_bytes > i64::MAX as u64 || (!self.wide_blocks && len_bytes > i32::MAX as u64) {
            return Err(BlendError::Damaged("a block's length makes no sense"));
        }
        Ok(Some(Block { code, len_bytes, address }))
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
