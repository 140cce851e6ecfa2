//! Finds the blob of a frame's output by the frame's name, for the blob store's service.

use framecrew_blobs::Digest;

/// Finds the blob of a frame's output.
#[tonic::async_trait]
pub(crate) trait OutputLookup: Send + Sync + 'static {
    /// The blob of the output `name` of a frame; of the frame's first output when `name` is empty.
    async fn find_output(&self, job_id: u64, frame: i32, name: &str)
    -> Result<Digest, LookupError>;
}

/// Why a frame's output cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// There is no such job.
    #[error("there is no such job")]
    UnknownJob,
    /// The job has no such frame.
    #[error("the job has no such frame")]
    UnknownFrame,
    /// The frame has no outputs yet.
    #[error("the frame is not finished yet")]
    NotFinished,
    /// The frame has other outputs.
    #[error("the frame has no output of that name")]
    UnknownOutput,
    /// The store could not be read; says why.
    #[error("the job could not be looked up: {0}")]
    Failed(String),
}
