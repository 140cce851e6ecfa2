//! The bytes of a .blend, decompressed on the way.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;

use crate::BlendError;

/// How far a compressed file is followed, in bytes: far above any project, yet the end of a small file that
/// was made to keep the reader busy for ever.
pub(crate) const UNCOMPRESSED_BYTES_MAX: u64 = 16 << 30;

/// Bytes looked at to tell what a file is.
const SNIFFED_BYTES: u64 = 12;

/// Bytes read from the file at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes that are read from a plain file at a time, of which most is passed over: the heads of blocks lie apart.
const SEEKING_BUFFER_BYTES: usize = 16 << 10;

/// How far a compressed file is followed however little there is of it, in bytes. An honest file of mostly zeros,
/// like a mesh that was not painted yet, may shrink to a ten-thousandth.
const UNRATED_BYTES: u64 = 1 << 30;

/// How many bytes a compressed byte may stand for in what follows [`UNRATED_BYTES`]. Scenes have 2 to 20; a bomb has
/// 1,000 by gzip, 30,000 by zstd.
const BYTES_PER_BYTE_MAX: u64 = 250;

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

pub(crate) struct Stream<'a> {
    compression: Compression,
    bytes: Box<dyn Bytes + 'a>,
    limit_bytes: u64,
    left_bytes: u64,
    /// Decompressed bytes before the next one.
    position: u64,
    /// Bytes taken from the file itself.
    taken_bytes: Rc<Cell<u64>>,
}

impl<'a> Stream<'a> {
    /// Looks at how the file begins. Only what is compressed is limited: what is not is as large as it is.
    pub(crate) fn open(mut reader: impl Read + 'a, limit_bytes: u64) -> Result<Self, BlendError> {
        let start = sniffed(&mut reader)?;
        let compression = Compression::of(&start)?;
        let reader = Cursor::new(start).chain(reader);
        Self::over(reader, compression, limit_bytes)
    }

    /// As [`Stream::open`], from the file's start. What is passed over in a plain file is not read.
    pub(crate) fn open_seekable(
        mut reader: impl Read + Seek + 'a,
        limit_bytes: u64,
    ) -> Result<Self, BlendError> {
        reader.rewind().map_err(BlendError::Unreadable)?;
        let compression = Compression::of(&sniffed(&mut reader)?)?;
        if compression != Compression::None {
            reader.rewind().map_err(BlendError::Unreadable)?;
            return Self::over(reader, compression, limit_bytes);
        }
        let end = reader.seek(SeekFrom::End(0)).map_err(BlendError::Unreadable)?;
        reader.rewind().map_err(BlendError::Unreadable)?;
        let inner = BufReader::with_capacity(SEEKING_BUFFER_BYTES, reader);
        Ok(Self::new(compression, Box::new(Seeking { inner, left_bytes: end }), limit_bytes))
    }

    fn over(
        reader: impl Read + 'a,
        compression: Compression,
        limit_bytes: u64,
    ) -> Result<Self, BlendError> {
        let taken_bytes = Rc::default();
        let reader = Counted { reader, taken_bytes: Rc::clone(&taken_bytes) };
        let reader = buffered(reader);
        let bytes: Box<dyn Bytes + 'a> = match compression {
            Compression::None => Box::new(Forward(reader)),
            Compression::Gzip => Box::new(Forward(buffered(MultiGzDecoder::new(reader)))),
            Compression::Zstd => Box::new(Forward(buffered(
                zstd::Decoder::with_buffer(reader).map_err(BlendError::DamagedCompression)?,
            ))),
        };
        Ok(Self { taken_bytes, ..Self::new(compression, bytes, limit_bytes) })
    }

    fn new(compression: Compression, bytes: Box<dyn Bytes + 'a>, limit_bytes: u64) -> Self {
        Self {
            compression,
            bytes,
            limit_bytes,
            left_bytes: match compression {
                Compression::None => u64::MAX,
                Compression::Gzip | Compression::Zstd => limit_bytes,
            },
            position: 0,
            taken_bytes: Rc::default(),
        }
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// How many decompressed bytes came before.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Reads exactly `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BlendError> {
        self.spend(N as u64)?;
        let mut bytes = [0; N];
        match self.bytes.read_exact(&mut bytes) {
            Ok(()) => self.went(N as u64).map(|()| bytes),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads up to `limit_bytes` bytes, fewer where the file ends.
    pub(crate) fn up_to(&mut self, limit_bytes: u64) -> Result<Vec<u8>, BlendError> {
        self.spend(limit_bytes)?;
        let mut bytes = Vec::new();
        match self.bytes.by_ref().take(limit_bytes).read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(self.failed(error)),
            _ => self.went(bytes.len() as u64).map(|()| bytes),
        }
    }

    /// Passes over `len_bytes` bytes, and returns the first of them, up to `keep_bytes`.
    pub(crate) fn take(&mut self, len_bytes: u64, keep_bytes: u64) -> Result<Vec<u8>, BlendError> {
        let keep_bytes = len_bytes.min(keep_bytes);
        let bytes = self.up_to(keep_bytes)?;
        if (bytes.len() as u64) < keep_bytes {
            return Err(BlendError::Truncated);
        }
        self.skip(len_bytes - keep_bytes)?;
        Ok(bytes)
    }

    /// Passes over `len_bytes` bytes.
    pub(crate) fn skip(&mut self, len_bytes: u64) -> Result<(), BlendError> {
        self.spend(len_bytes)?;
        let mut left = len_bytes;
        while left > 0 {
            match self.bytes.pass(left) {
                Ok(0) => return Err(BlendError::Truncated),
                Ok(now) => {
                    left -= now;
                    self.went(now)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> Result<(), BlendError> {
        self.left_bytes = self
            .left_bytes
            .checked_sub(bytes)
            .ok_or(BlendError::TooLarge { limit_bytes: self.limit_bytes })?;
        Ok(())
    }

    fn went(&mut self, bytes: u64) -> Result<(), BlendError> {
        self.position += bytes;
        let rated = self.position.saturating_sub(UNRATED_BYTES);
        let is_bomb = self.compression != Compression::None
            && rated > self.taken_bytes.get().saturating_mul(BYTES_PER_BYTE_MAX);
        if is_bomb { Err(BlendError::Bomb { opened_bytes: self.position }) } else { Ok(()) }
    }

    /// Tells the disk's errors, which have a number, from the decompressor's, which have not.
    fn failed(&self, error: io::Error) -> BlendError {
        match self.compression {
            _ if error.kind() == ErrorKind::UnexpectedEof => BlendError::Truncated,
            Compression::Gzip | Compression::Zstd if error.raw_os_error().is_none() => {
                BlendError::DamagedCompression(error)
            }
            _ => BlendError::Unreadable(error),
        }
    }
}

impl Compression {
    /// What a file that begins like this is compressed by.
    fn of(start: &[u8]) -> Result<Self, BlendError> {
        Ok(match start {
            [] => return Err(BlendError::Empty),
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a frame to be skipped before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        })
    }
}

fn sniffed(reader: &mut impl Read) -> Result<Vec<u8>, BlendError> {
    let mut start = Vec::new();
    reader.take(SNIFFED_BYTES).read_to_end(&mut start).map_err(BlendError::Unreadable)?;
    Ok(start)
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER_BYTES, reader)
}

/// What can be read and passed over.
trait Bytes: Read {
    /// Passes over up to `len_bytes` bytes; says how many. None are left where it passes over none.
    fn pass(&mut self, len_bytes: u64) -> io::Result<u64>;
}

/// Reads what it passes over.
struct Forward<R>(BufReader<R>);

impl<R: Read> Read for Forward<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Bytes for Forward<R> {
    fn pass(&mut self, len_bytes: u64) -> io::Result<u64> {
        let now = (self.0.fill_buf()?.len() as u64).min(len_bytes);
        // No more than the buffer holds, so it fits.
        self.0.consume(now as usize);
        Ok(now)
    }
}

/// Leaps over what it passes over, but not past the end.
struct Seeking<R> {
    inner: BufReader<R>,
    left_bytes: u64,
}

impl<R: Read> Read for Seeking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let now = self.inner.read(buffer)?;
        self.left_bytes = self.left_bytes.saturating_sub(now as u64);
        Ok(now)
    }
}

impl<R: Read + Seek> Bytes for Seeking<R> {
    fn pass(&mut self, len_bytes: u64) -> io::Result<u64> {
        let now = len_bytes.min(self.left_bytes);
        self.inner.seek_relative(i64::try_from(now).unwrap_or(i64::MAX))?;
        self.left_bytes -= now;
        Ok(now)
    }
}

struct Counted<R> {
    reader: R,
    taken_bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let now = self.reader.read(buffer)?;
        self.taken_bytes.set(self.taken_bytes.get().saturating_add(now as u64));
        Ok(now)
    }
}
