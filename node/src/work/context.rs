//! What the attempts at a batch's slices share.

use std::sync::{Arc, atomic::AtomicUsize};

use framecrew_proto::v1::{Failure, LogLine, Slice, SliceFinished, SliceProgress};
use tokio::sync::mpsc;

use crate::{
    batch::{Batch, Work},
    core,
    failure::FailureReason,
    node::Node,
    output::Blob,
    project::Layout,
    renderer::{Observation, RenderError, Scene, Slot},
};

/// What the attempts at a batch's slices have in common.
pub(super) struct BatchContext<'a> {
    pub(super) node: &'a Node,
    pub(super) batch: &'a Batch,
    pub(super) work: &'a Work,
    pub(super) scene: Scene,
    pub(super) layout: Option<Arc<Layout>>,
    pub(super) pending: &'a PendingUploads,
}

/// Frames that are rendered and kept, but not stored.
pub(super) struct PendingUploads {
    pub(super) queue: mpsc::UnboundedSender<KeptFrame>,
    /// Their number.
    pub(super) count: Arc<AtomicUsize>,
}

/// A frame in the outbox.
pub(super) struct KeptFrame {
    pub(super) finished: SliceFinished,
    pub(super) blobs: Vec<Blob>,
}

/// What a slice has become, not stored yet.
pub(super) struct DrawnSlice {
    pub(super) finished: SliceFinished,
    pub(super) blobs: Vec<Blob>,
}

/// Ends what renders, or encodes a movie, and returns when that is gone.
pub(super) async fn end(node: &Node, slot: &mut Slot) {
    slot.kill().await;
    if let Some(ffmpeg) = node.ffmpeg() {
        ffmpeg.settle().await;
    }
}

/// Tells the batch's reader what happens to a slice.
pub(super) fn observer(batch: &Batch, slice: &Slice) -> impl FnMut(Observation) {
    |observation| match observation {
        Observation::Progress(progress) => {
            batch.progress(SliceProgress { slice: Some(*slice), ..progress.into() });
        }
        Observation::Line(text) => {
            batch.log(LogLine { frame: Some(slice.frame), text, ..LogLine::default() })
        }
        Observation::Warning(warning) => batch.warn(warning.into()),
    }
}

pub(super) fn failure(error: RenderError, slot: &Slot) -> Failure {
    Failure { reason: error.reason.into(), message: error.message, log_tail: slot.log_tail() }
}

pub(super) fn infrastructure(message: String) -> Failure {
    let error = RenderError::new(FailureReason::Infrastructure, message);
    Failure { reason: error.reason.into(), message: error.message, log_tail: Vec::new() }
}

/// The slice as the core names it.
pub(super) fn named(slice: &Slice) -> core::Slice {
    core::Slice { frame: slice.frame, index: slice.index }
}
