//! The outcome of rendering: a frame's state, its outputs, its failures.

use framecrew_blobs::Digest;
use serde::{Deserialize, Serialize};

use super::{
    ids::{BatchId, NodeName, Revision},
    kinds::WarningKind,
};

/// A frame as it is stored and shown.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// Its number.
    pub frame: i32,
    /// Where it stands.
    pub state: FrameState,
    /// When it last changed.
    pub revision: Revision,
    /// Tries behind it.
    pub attempts: Attempts,
    /// What it produced, once finished.
    pub rendered: Option<Rendered>,
    /// Why the latest try failed.
    pub failure: Option<Failure>,
    /// Node that finished or last failed it.
    pub node: Option<NodeName>,
}

/// Where a frame stands, as far as it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FrameState {
    /// Waiting or being rendered.
    Open,
    /// Every output is stored.
    Finished,
    /// Given up.
    Failed,
    /// Open when the job was cancelled.
    Cancelled,
}

/// What rendering a slice came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rendered {
    /// At least one.
    pub outputs: Vec<Output>,
    /// Seconds in the renderer.
    pub render_seconds: f64,
    /// Peak memory of the renderer in bytes; 0: unknown.
    pub peak_memory_bytes: u64,
    /// A small picture, where one could be made.
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
    /// Its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Over all layers; 0: not an image.
    #[serde(default)]
    pub channels: u32,
}

/// A small picture of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The JPEG, as a blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The JPEG itself, while it is fresh; never stored in the database.
    #[serde(skip)]
    pub data: bytes::Bytes,
}

/// Why a try failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What kind it was: decides what happens next.
    pub reason: FailureReason,
    /// One sentence.
    pub message: String,
    /// Last lines of the renderer.
    pub log_tail: Vec<String>,
}

/// Kinds of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FailureReason {
    /// Blender crashed, reported an error, or drew nothing.
    Renderer,
    /// The output is missing, does not decode or has the wrong size.
    InvalidOutput,
    /// The renderer went silent.
    Timeout,
    /// Out of memory.
    OutOfMemory,
    /// The node was lost under it.
    NodeLost,
    /// Something around the renderer failed.
    Infrastructure,
    /// No try can succeed.
    Permanent,
}

/// Something a person should know about a job's frames.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Warning {
    /// Its subject.
    pub kind: WarningKind,
    /// One sentence.
    pub text: String,
}

/// Tries that ended without a frame, by whose fault: the budgets are separate.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// The renderer's fault.
    pub renderer: u32,
    /// The node was lost.
    pub node_lost: u32,
    /// Out of memory.
    pub out_of_memory: u32,
    /// Neither counts against the frame: infrastructure.
    pub infrastructure: u32,
    /// Nodes that died when the slice may have been what they had begun last, without a word of it. No failed
    /// tries, until it is lost with a node that had nothing else.
    #[serde(default, skip_serializing_if = "is_none")]
    pub suspicions: u32,
    /// Nodes that failed it, or are suspected to have died of it, so that others are tried first.
    pub failed_on: Vec<NodeName>,
    /// Batch of the latest of them: neither it nor an earlier one holds the slice any more, also where a
    /// former life of the orchestrator remembers it in one.
    pub latest_batch: Option<BatchId>,
}

// None is not written, so that a frame without tries reads the same in stores of every version.
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

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.renderer + self.node_lost + self.out_of_memory + self.infrastructure
    }
}
