//! A blob that is being uploaded.

use std::{
    io::{self, Write},
    sync::Arc,
};

use framecrew_blobs::Digest;

use super::backend::{Backend, StagedId};

/// Bytes that are not found until they are published. Dropped before that, they are removed.
pub(super) struct Staged {
    pub(super) id: StagedId,
    backend: Arc<dyn Backend>,
    /// Open while it is written: hundreds of blobs may wait to be synced.
    writer: Option<Box<dyn Write + Send>>,
    pub(super) is_published: bool,
}

impl Staged {
    pub(super) fn new(backend: Arc<dyn Backend>, id: StagedId) -> io::Result<Self> {
        let writer = Some(backend.stage(id)?);
        Ok(Self { id, backend, writer, is_published: false })
    }

    pub(super) fn digest(&self) -> Digest {
        self.id.digest
    }

    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.write_all(data),
            None => Err(io::Error::other("a blob is written to after its end")),
        }
    }

    /// All bytes are written.
    pub(super) fn close(&mut self) {
        self.writer = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        // Windows removes no file that is open.
        self.close();
        if let Err(error) = self.backend.discard(self.id) {
            tracing::warn!(digest = %self.digest(), %error, "cannot remove an unfinished upload");
        }
    }
}
