//! The bytes of a .blend, decompressed on the way.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

use crate::{BlendError, Compression};

/// Bytes looked at to tell what a file is.
const SNIFFED_BYTES: u64 = 12;

/// Bytes read from the file at a time.
const BUFFER_BYTES: usize = 64 << 10;

pub(crate) struct Stream<'a> {
    compression: Compression,
    bytes: Box<dyn BufRead + 'a>,
    limit_bytes: u64,
    left_bytes: u64,
}

impl<'a> Stream<'a> {
    /// Looks at how the file begins. Only what is compressed is limited: what is not is as large as it is.
    pub(crate) fn open(reader: impl Read + 'a, limit_bytes: u64) -> Result<Self, BlendError> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        let mut start = Vec::new();
        reader
            .by_ref()
            .take(SNIFFED_BYTES)
            .read_to_end(&mut start)
            .map_err(BlendError::Unreadable)?;
        let compression = match start[..] {
            [] => return Err(BlendError::Empty),
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or a frame to be skipped before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        };
        let reader = Cursor::new(start).chain(reader);
        let bytes: Box<dyn BufRead + 'a> = match compression {
            Compression::None => Box::new(reader),
            Compression::Gzip => Box::new(buffered(MultiGzDecoder::new(reader))),
            Compression::Zstd => Box::new(buffered(
                zstd::Decoder::with_buffer(reader).map_err(BlendError::DamagedCompression)?,
            )),
        };
        Ok(Self {
            compression,
            bytes,
            limit_bytes,
            left_bytes: match compression {
                Compression::None => u64::MAX,
                Compression::Gzip | Compression::Zstd => limit_bytes,
            },
        })
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Reads exactly `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BlendError> {
        self.spend(N as u64)?;
        let mut bytes = [0; N];
        match self.bytes.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads up to `limit_bytes` bytes, fewer where the file ends.
    pub(crate) fn up_to(&mut self, limit_bytes: u64) -> Result<Vec<u8>, BlendError> {
        self.spend(limit_bytes)?;
        let mut bytes = Vec::new();
        match self.bytes.by_ref().take(limit_bytes).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(bytes),
            Err(error) => Err(self.failed(error)),
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
            let ready = match self.bytes.fill_buf() {
                Ok([]) => return Err(BlendError::Truncated),
                Ok(ready) => ready.len() as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            let now = ready.min(left);
            // No more than the buffer holds, so it fits.
            self.bytes.consume(now as usize);
            left -= now;
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

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER_BYTES, reader)
}
