//! The outcome of rendering: a frame's state, its outputs, its failures.

use framecrew_blobs::Digest;
use serde::{Deserialize, Serialize};

use super::{
    ids::{BatchId, NodeName, Revision},
    kinds::WarningKind,
};

/// A frame as it is stored and shown to people.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// Its number.
    pub frame: i32,
    /// Its state.
    pub state: FrameState,
    /// The revision of its latest change.
    pub revision: Revision,
    /// Its failed attempts.
    pub attempts: Attempts,
    /// Its output, once it is finished.
    pub rendered: Option<Rendered>,
    /// Why the latest attempt failed.
    pub failure: Option<Failure>,
    /// Node that finished or last failed it.
    pub node: Option<NodeName>,
}

/// The durable state of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FrameState {
    /// Waiting or being rendered.
    Open,
    /// Every output is stored.
    Finished,
    /// No attempt is left.
    Failed,
    /// Open when the job was cancelled.
    Cancelled,
}

/// The result of rendering a slice.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rendered {
    /// Its files, at least one.
    pub outputs: Vec<Output>,
    /// Seconds that the renderer took.
    pub render_seconds: f64,
    /// Peak memory of the renderer in bytes; 0 if unknown.
    pub peak_memory_bytes: u64,
    /// A preview, if one could be made.
    pub preview: Option<Preview>,
}

impl Rendered {
    /// The blobs that hold its outputs, in order, with their sizes in bytes.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.outputs.iter().map(|output| (output.digest, output.size_bytes))
    }
}

/// A file that a slice produced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Output {
    /// File name.
    pub name: String,
    /// Digest of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Channels of all layers; 0 if the file is no image.
    #[serde(default)]
    pub channels: u32,
}

/// A small picture of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// Digest of the JPEG.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The JPEG itself, while the frame is new. The database does not store it.
    #[serde(skip)]
    pub data: bytes::Bytes,
}

/// Why an attempt failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure, which decides what happens next.
    pub reason: FailureReason,
    /// One sentence.
    pub message: String,
    /// The last lines that the renderer wrote.
    pub log_tail: Vec<String>,
}

/// Kinds of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FailureReason {
    /// Blender crashed, reported an error, or rendered nothing.
    Renderer,
    /// The output is missing, does not decode or has the wrong size.
    InvalidOutput,
    /// The renderer was silent for too long.
    Timeout,
    /// The renderer ran out of memory.
    OutOfMemory,
    /// The node was lost while it rendered.
    NodeLost,
    /// Something around the renderer failed.
    Infrastructure,
    /// No attempt can succeed.
    Permanent,
}

/// A problem of a job's frames that a person should know of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Warning {
    /// Its subject.
    pub kind: WarningKind,
    /// One sentence.
    pub text: String,
}

/// Failed attempts, counted by cause. Each cause has its own budget.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// Failures of the renderer.
    pub renderer: u32,
    /// Losses of the node.
    pub node_lost: u32,
    /// Renderers that ran out of memory.
    pub out_of_memory: u32,
    /// Failures around the renderer. They do not count against the frame.
    pub infrastructure: u32,
    /// Nodes that crashed when this slice may have been the last one that they began. They are no failed attempts until
    /// the slice is lost with a node that had nothing else.
    #[serde(default, skip_serializing_if = "is_none")]
    pub suspicions: u32,
    /// Nodes that failed it or may have crashed on it. Others are tried first.
    pub failed_on: Vec<NodeName>,
    /// Batch of the latest attempt. Neither it nor an earlier one holds the slice any more, even if the store still lists
    /// the slice in one.
    pub latest_batch: Option<BatchId>,
}

// Zero is not written, so that a frame without attempts reads the same in stores of every version.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
fn is_none(suspicions: &u32) -> bool {
    *suspicions == 0
}

impl Attempts {
    pub(crate) fn note_failed_on(&mut self, node: &NodeName) {
        if !self.failed_on.contains(node) {
            self.failed_on.push(node.clone());
        }
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.renderer + self.node_lost + self.out_of_memory + self.infrastructure
    }
}
