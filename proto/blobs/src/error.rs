use std::{error::Error as _, io, path::PathBuf};

use tonic::{Code, Status};

use crate::Digest;

/// Why a blob did not travel. Each text stands alone: it names the blob or file and what was being done.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The local disk refused.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: "read", "write", "rename"…
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file's bytes are no longer those that were hashed.
    #[error("{} changed while it was being uploaded; let whatever writes it finish, then try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Another download holds the same unfinished file.
    #[error("another download is already writing {}", path.display())]
    Busy {
        /// Where the blob was to go.
        path: PathBuf,
    },
    /// The bytes that arrived are not those that the digest names.
    #[error("blob {digest} arrived damaged; nothing was kept")]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// The store's blob has another size than the caller was told.
    #[error(
        "blob {digest} has {stored_bytes} bytes in the store, but {expected_bytes} were expected"
    )]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// What the store says, in bytes.
        stored_bytes: u64,
        /// What the caller expected, in bytes.
        expected_bytes: u64,
    },
    /// The blob store could not be reached, or refused.
    #[error("cannot {action}: {}", reason(status))]
    Store {
        /// What was tried, with the blob's digest.
        action: String,
        /// The answer, or what became of the connection.
        #[source]
        status: Status,
    },
}

impl TransferError {
    /// Whether the same call may succeed later, with nothing changed by the caller: the link broke, or the
    /// store is busy, full or restarting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Store { status, .. } => is_transient(status),
            Self::File { .. }
            | Self::Changed { .. }
            | Self::Damaged { .. }
            | Self::WrongSize { .. } => false,
        }
    }

    /// The gRPC status, where the blob store (or the link to it) is what failed.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Store { status, .. } => Some(status),
            _ => None,
        }
    }

    pub(crate) fn store(action: impl Into<String>, status: Status) -> Self {
        Self::Store { action: action.into(), status }
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// A link that breaks in mid-stream arrives as `Unknown` or `Internal`; what tells it from the store's own
/// answer is that only a local failure has a source.
fn is_transient(status: &Status) -> bool {
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::Aborted
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
        )
}

fn reason(status: &Status) -> String {
    let mut cause = status.source();
    let Some(mut root) = cause else {
        let said = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        return format!("the blob store says: {said}");
    };
    while let Some(deeper) = cause {
        root = deeper;
        cause = deeper.source();
    }
    format!("no connection to the blob store: {root}")
}
