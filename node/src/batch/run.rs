//! Takes a batch from waiting for a slot to its end.

use std::{path::PathBuf, sync::Arc};

use framecrew_proto::v1::{
    BatchEnd, Failure, FailureReason, LogLine, Slice, SliceFailed, SliceFinished, SliceStarted,
    batch_event::Event,
};
use tracing::{info, warn};

use super::{Batch, Work, encode};
use crate::{
    node::Node,
    output::{self, Blob, CheckedFrame},
    project::Layout,
    renderer::{Drawn, Observation, RenderError, Scene, Slot},
};

/// Renders a batch when a slot is free. Always ends it.
pub(crate) async fn run(node: Arc<Node>, batch: Arc<Batch>, work: Work) {
    let end = match batch.cancelled.run_until_cancelled(node.slots.take()).await {
        None => BatchEnd::Cancelled,
        Some(mut slot) => {
            node.changed();
            let rendering = render_all(&node, &batch, &work, &mut slot);
            let complete = batch.cancelled.run_until_cancelled(rendering).await;
            if complete == Some(true) && !batch.cancelled.is_cancelled() {
                BatchEnd::Complete
            } else {
                slot.kill().await;
                BatchEnd::Cancelled
            }
        }
    };
    info!(batch = work.batch_id, job = work.job_id, end = end.as_str_name(), "batch ended");
    batch.end(end);
    node.changed();
}

/// Renders the slices, one after the other. False: the lease has run out.
async fn render_all(node: &Node, batch: &Batch, work: &Work, slot: &mut Slot) -> bool {
    let layout = match lay_out(node, work, slot).await {
        Ok(layout) => layout,
        Err(error) => {
            for slice in &work.slices {
                batch.push(started(slice));
                batch.push(failed(slice, error.clone()));
            }
            return true;
        }
    };
    let scene = Scene {
        blend: layout.as_ref().map(|layout| layout.path(&work.project.blend)).unwrap_or_default(),
        settings: work.settings.clone(),
        file_version: work.file_version,
        strict: work.strict,
    };
    for slice in &work.slices {
        if !node.lease.holds() {
            return false;
        }
        batch.push(started(slice));
        let result = match (&work.encoding, &layout) {
            (Some(encoding), Some(layout)) => {
                encode::make_movie(node, batch, slot, &scene, layout, encoding, slice).await
            }
            _ => render_one(node, batch, slot, &scene, slice).await,
        };
        // What was drawn while the lease ran out is somebody else's by now.
        if !node.lease.holds() {
            return false;
        }
        match result {
            Ok(finished) => batch.push(Event::Finished(finished)),
            Err(failure) => {
                warn!(
                    batch = work.batch_id,
                    job = work.job_id,
                    frame = slice.frame,
                    reason = failure.reason().as_str_name(),
                    message = failure.message,
                    "a try at a frame failed",
                );
                batch.push(failed(slice, failure));
            }
        }
    }
    true
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

async fn render_one(
    node: &Node,
    batch: &Batch,
    slot: &mut Slot,
    scene: &Scene,
    slice: &Slice,
) -> Result<SliceFinished, Failure> {
    // The frame's own: what is in it afterwards is what the frame produced. Ends with this function.
    let folder = if slot.needs_folder() {
        let folder = tempfile::Builder::new().prefix("frame-").tempdir_in(&node.work);
        Some(folder.map_err(|error| infrastructure(format!("cannot make a folder: {error}")))?)
    } else {
        None
    };
    let path = folder.as_ref().map_or_else(PathBuf::new, |folder| folder.path().to_owned());

    let drawing = slot
        .render(scene, slice.frame, &path, observer(batch, slice))
        .await
        .map_err(|error| failure(error, slot))?;
    let CheckedFrame { outputs, small } = match drawing.drawn {
        Drawn::Checked(checked) => CheckedFrame { outputs: vec![checked], small: None },
        Drawn::InFolder(promise) => match output::check(path, slice.frame, promise).await {
            Ok(frame) => frame,
            Err(error) => {
                let error = RenderError::new(FailureReason::InvalidOutput, error.to_string());
                let failure = failure(error, slot);
                // What drew nothing good once is not trusted with the next frame.
                slot.kill().await;
                return Err(failure);
            }
        },
    };
    let (preview, picture) = match small {
        Some(small) => slot.preview(small).await.unzip(),
        None => (None, None),
    };
    let blobs = outputs.iter().map(|checked| &checked.blob).chain(&picture);
    store(node, blobs).await?;
    Ok(SliceFinished {
        slice: Some(*slice),
        outputs: outputs.into_iter().map(|checked| checked.output).collect(),
        render_seconds: drawing.render_seconds,
        peak_memory_bytes: drawing.peak_memory_bytes,
        preview,
    })
}

/// Tells the batch's reader what happens to a slice.
pub(super) fn observer(batch: &Batch, slice: &Slice) -> impl FnMut(Observation) {
    |observation| match observation {
        Observation::Progress(mut progress) => {
            progress.slice = Some(*slice);
            batch.progress(progress);
        }
        Observation::Line(text) => {
            batch.log(LogLine { frame: Some(slice.frame), text, ..LogLine::default() })
        }
        Observation::Warning(warning) => batch.warn(warning),
    }
}

pub(super) async fn store(
    node: &Node,
    blobs: impl IntoIterator<Item = &Blob>,
) -> Result<(), Failure> {
    node.outbox.store(blobs).await.map_err(|error| infrastructure(error.to_string()))
}

pub(super) fn failure(error: RenderError, slot: &Slot) -> Failure {
    Failure { reason: error.reason.into(), message: error.message, log_tail: slot.log_tail() }
}

pub(super) fn infrastructure(message: String) -> Failure {
    let error = RenderError::new(FailureReason::Infrastructure, message);
    Failure { reason: error.reason.into(), message: error.message, log_tail: Vec::new() }
}

fn started(slice: &Slice) -> Event {
    Event::Started(SliceStarted { slice: Some(*slice) })
}

fn failed(slice: &Slice, failure: Failure) -> Event {
    Event::Failed(SliceFailed { slice: Some(*slice), failure: Some(failure) })
}
