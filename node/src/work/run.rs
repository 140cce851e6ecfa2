//! Takes a batch from its slot to its end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use framecrew_proto::v1::{
    self, Failure, Slice, SliceFailed, SliceFinished, SliceStarted, batch_event::Event,
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{
    attempt::try_slice,
    context::{BatchContext, KeptFrame, PendingUploads, end, failure, infrastructure, named},
};
use crate::{
    batch::{Batch, Work},
    core::{self, JournalId},
    failure::FailureReason,
    node::Node,
    project::Layout,
    renderer::{RenderError, Scene, Slot},
};

/// Deaths of Blender at one frame of an animation, after which a batch gives up the frames that continue it: as many
/// as a frame has tries.
const DEATHS_MAX: u32 = 3;

/// Renders a batch that has a slot, and reports its end.
pub(crate) async fn run(node: Arc<Node>, batch: Arc<Batch>, work: Work) {
    // The batch before may still be giving it back.
    let slot = batch.killed().run_until_cancelled(node.slots.take()).await;
    let is_complete = match slot {
        None => false,
        Some(slot) => {
            // Holds no more frames than the batch has slices.
            let (queue, arriving) = mpsc::unbounded_channel();
            let pending = PendingUploads { queue, count: Arc::default() };
            let storing = store_pending(&node, &batch, arriving, pending.count.clone());
            let storing = batch.killed().run_until_cancelled(storing);
            let (rendered, stored) =
                tokio::join!(render(&node, &batch, &work, slot, pending), storing);
            rendered && stored == Some(true)
        }
    };
    node.outbox.close(JournalId::Of(batch.key()));
    node.tell(core::Event::BatchOver { batch: batch.key(), is_complete }).await;
}

/// Renders the batch's slices and gives its slot back. Returns whether each slice has its outcome.
async fn render(
    node: &Node,
    batch: &Batch,
    work: &Work,
    mut slot: Slot,
    pending: PendingUploads,
) -> bool {
    let rendering = render_all(node, batch, work, &mut slot, &pending);
    let is_complete = batch.killed().run_until_cancelled(rendering).await == Some(true);
    if !is_complete || batch.killed().is_cancelled() {
        end(node, &mut slot).await;
    }
    drop(slot);
    if pending.count.load(Ordering::Acquire) > 0 {
        node.tell(core::Event::SlotFreed { batch: batch.key() }).await;
    }
    is_complete
}

/// Stores the frames that could not be stored at once, and reports them. Returns false if the batch has to end.
async fn store_pending(
    node: &Node,
    batch: &Batch,
    mut arriving: mpsc::UnboundedReceiver<KeptFrame>,
    count: Arc<AtomicUsize>,
) -> bool {
    while let Some(KeptFrame { finished, blobs }) = arriving.recv().await {
        let slice = finished.slice.unwrap_or_default();
        let stored = node.uploads.store_at_last(&blobs).await;
        let result = stored.map(|()| finished).map_err(|error| infrastructure(error.to_string()));
        count.fetch_sub(1, Ordering::AcqRel);
        if !report(node, batch, &slice, result).await {
            return false;
        }
    }
    true
}

/// Renders the slices, one after the other. Returns false if the batch has to end.
async fn render_all(
    node: &Node,
    batch: &Batch,
    work: &Work,
    slot: &mut Slot,
    pending: &PendingUploads,
) -> bool {
    let layout = match lay_out(node, work, slot).await {
        Ok(layout) => layout,
        Err(error) => {
            for slice in &work.slices {
                if !start(node, batch, slice).await
                    || !report(node, batch, slice, Err(error.clone())).await
                {
                    return false;
                }
            }
            return true;
        }
    };
    let scene = Scene {
        blend: layout.as_ref().map(|layout| layout.path(&work.project.blend)).unwrap_or_default(),
        color_config: layout
            .as_ref()
            .zip(work.color_config.as_ref())
            .map(|(layout, file)| layout.path(file))
            .unwrap_or_default(),
        addons: layout
            .iter()
            .flat_map(|layout| work.addons.iter().map(|file| layout.path(file)))
            .collect(),
        settings: work.settings.clone(),
        file_version: work.file_version,
        strict: work.strict,
        silence: work.limits.frame_silence,
        span: work.span,
    };
    let context = BatchContext { node, batch, work, scene, layout, pending };
    let mut deaths = Deaths::default();
    for slice in &work.slices {
        if !start(node, batch, slice).await {
            return false;
        }
        debug!(batch = %batch.key().id, job = work.origin.job_id, frame = slice.frame, "frame begun");
        let result = match deaths.verdict(slice.frame) {
            Some(error) => Err(failure(error, slot)),
            None => try_slice(&context, slot, slice).await,
        };
        if let Err(failure) = &result
            && work.span.is_some()
            && failure.reason() == v1::FailureReason::Renderer
        {
            deaths.count(slot.died_at());
        }
        // A frame that is stored later is reported then.
        if let Some(result) = result.transpose()
            && !report(node, batch, slice, result).await
        {
            return false;
        }
    }
    true
}

/// How often Blender died at the frames of an animation, in one batch.
#[derive(Debug, Default)]
struct Deaths(BTreeMap<i32, u32>);

impl Deaths {
    fn count(&mut self, died_at: Option<i32>) {
        if let Some(frame) = died_at {
            *self.0.entry(frame).or_default() += 1;
        }
    }

    /// Returns why no try at `frame` succeeds: it continues one that Blender does not survive. Without this, each
    /// later frame would draw all frames up to that one again, only to die there.
    fn verdict(&self, frame: i32) -> Option<RenderError> {
        let (fatal, _) = self.0.range(..frame).find(|(_, deaths)| **deaths >= DEATHS_MAX)?;
        let message = format!(
            "it continues frame {fatal}, at which Blender died {DEATHS_MAX} times in a row; mend that frame, or bake the \
             simulation, and retry"
        );
        Some(RenderError::new(FailureReason::Permanent, message))
    }
}

/// Reports that a slice begins. Returns false if it must not: the batch has to end, or the node drains.
async fn start(node: &Node, batch: &Batch, slice: &Slice) -> bool {
    let started = Event::Started(SliceStarted { slice: Some(*slice) });
    node.report(core::Event::SliceStarting { batch: batch.key() }, started).await
}

/// Reports the outcome of a slice. Returns false if the batch has to end: the slice may belong to another node now, so
/// a finished frame stays in the outbox and is offered.
async fn report(
    node: &Node,
    batch: &Batch,
    slice: &Slice,
    result: Result<SliceFinished, Failure>,
) -> bool {
    let (finished, event) = match result {
        Ok(finished) => (Some(named(slice)), Event::Finished(finished)),
        Err(failure) => {
            warn!(
                batch = %batch.key().id,
                frame = slice.frame,
                reason = failure.reason().as_str_name(),
                message = failure.message,
                "an attempt at a frame failed",
            );
            let failed = SliceFailed { slice: Some(*slice), failure: Some(failure) };
            (None, Event::Failed(failed))
        }
    };
    node.report(core::Event::SliceOver { batch: batch.key(), finished }, event).await
}

/// Lays the project out, where the renderer needs one.
async fn lay_out(node: &Node, work: &Work, slot: &Slot) -> Result<Option<Arc<Layout>>, Failure> {
    if !slot.needs_folder() && work.encoding.is_none() {
        return Ok(None);
    }
    let layout = node.projects.lay_out(&work.project).await;
    layout.map(Some).map_err(|error| Failure {
        reason: error.reason().into(),
        message: error.to_string(),
        log_tail: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_that_continue_one_which_blender_does_not_survive_are_given_up() {
        let mut deaths = Deaths::default();
        for _ in 0..DEATHS_MAX {
            assert!(deaths.verdict(51).is_none());
            deaths.count(Some(50));
            deaths.count(None);
        }
        assert!(deaths.verdict(50).is_none(), "it continues only those before it");
        let error = deaths.verdict(51).unwrap();
        assert_eq!(error.reason, FailureReason::Permanent);
        assert!(error.message.contains("continues frame 50"), "{error:?}");
    }
}
