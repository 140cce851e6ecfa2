//! How far a submission or a fetch is.

/// How far a submission is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitProgress {
    /// The project's files are being read, to learn what the cluster has of them already.
    Hashing {
        /// Bytes read so far.
        done_bytes: u64,
        /// Bytes to read.
        total_bytes: u64,
    },
    /// What the cluster does not have is being sent; not reported when it has everything.
    Uploading {
        /// Bytes on their way so far.
        sent_bytes: u64,
        /// Bytes to send.
        total_bytes: u64,
    },
    /// The orchestrator cannot be reached at the moment, or is busy; it is tried again.
    Waiting {
        /// Attempts so far.
        attempt: u32,
        /// Why, in words.
        reason: String,
    },
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Files brought.
    pub fetched: u64,
    /// Files that were there already, with the right content.
    pub kept: u64,
    /// Files brought in the place of others of the same name, which are gone.
    pub replaced: u64,
    /// Bytes brought.
    pub bytes: u64,
}
