//! Takes a batch from waiting for a slot to its end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use framecrew_proto::{
    BatchName,
    v1::{
        BatchEnd, Failure, FailureReason, LogLine, Slice, SliceFailed, SliceFinished, SliceStarted,
        Warning, WarningKind, batch_event::Event,
    },
};
use tokio::{sync::mpsc, time};
use tracing::{debug, info, warn};

use super::{Batch, Work, encode};
use crate::{
    node::Node,
    outbox::{self, Origin},
    output::{self, Blob, CheckedFrame},
    project::Layout,
    renderer::{Drawn, Observation, RenderError, Scene, Slot},
};

/// Deaths of Blender at one frame of an animation, after which a batch gives up the frames that continue it: as many
/// as a frame has tries.
const DEATHS_MAX: u32 = 3;

/// Renders a batch when a slot is free. Always ends it.
pub(crate) async fn run(node: Arc<Node>, batch: Arc<Batch>, work: Work) {
    let slot = async {
        tokio::select! {
            slot = node.slots.take() => Some(slot),
            // What has not begun is handed back at once.
            () = node.draining.cancelled() => None,
        }
    };
    let slot = batch.cancelled.run_until_cancelled(slot).await.flatten();
    let complete = match slot {
        None => false,
        Some(slot) => {
            node.changed();
            // Holds no more frames than the batch has slices.
            let (late, arriving) = mpsc::unbounded_channel();
            let late = Late { queue: late, waiting: Arc::default() };
            let telling = tell_late(&node, &batch, arriving, late.waiting.clone());
            let telling = batch.cancelled.run_until_cancelled(telling);
            let (complete, told) = tokio::join!(draw(&node, &batch, &work, slot, late), telling);
            complete && told == Some(true)
        }
    };
    let end =
        if complete && !batch.is_cancelled() { BatchEnd::Complete } else { BatchEnd::Cancelled };
    let Origin { batch_id, job_id, .. } = work.origin;
    info!(batch = %BatchName(batch_id), job = job_id, end = end.as_str_name(), "batch ended");
    node.outbox.close(batch_id);
    if batch.end(end) {
        node.forget(&batch);
    }
    node.changed();
}

/// Frames that are drawn and kept, but not stored.
struct Late {
    queue: mpsc::UnboundedSender<KeptFrame>,
    /// How many there are.
    waiting: Arc<AtomicUsize>,
}

/// A frame in the outbox.
struct KeptFrame {
    finished: SliceFinished,
    blobs: Vec<Blob>,
}

/// Draws the batch's slices and gives its slot back. False: not all of them.
async fn draw(node: &Node, batch: &Batch, work: &Work, mut slot: Slot, late: Late) -> bool {
    let rendering = render_all(node, batch, work, &mut slot, &late);
    let complete = batch.cancelled.run_until_cancelled(rendering).await == Some(true);
    if !complete || batch.is_cancelled() {
        end(node, &mut slot).await;
    }
    complete
}

/// Ends what draws, or makes a movie, and returns when that is gone.
async fn end(node: &Node, slot: &mut Slot) {
    slot.kill().await;
    if let Some(ffmpeg) = node.ffmpeg() {
        ffmpeg.settle().await;
    }
}

/// Stores the frames that could not be stored at once, and tells of them. False: the lease has run out.
async fn tell_late(
    node: &Node,
    batch: &Batch,
    mut arriving: mpsc::UnboundedReceiver<KeptFrame>,
    waiting: Arc<AtomicUsize>,
) -> bool {
    while let Some(KeptFrame { finished, blobs }) = arriving.recv().await {
        let slice = finished.slice.unwrap_or_default();
        let stored = node.outbox.store_at_last(&blobs).await;
        let result = stored.map(|()| finished).map_err(|error| infrastructure(error.to_string()));
        waiting.fetch_sub(1, Ordering::AcqRel);
        if !tell(node, batch, &slice, result) {
            return false;
        }
    }
    true
}

/// What the tries at a batch's slices have in common.
pub(super) struct BatchContext<'a> {
    pub(super) node: &'a Node,
    pub(super) batch: &'a Batch,
    work: &'a Work,
    pub(super) scene: Scene,
    layout: Option<Arc<Layout>>,
    late: &'a Late,
}

/// Renders the slices, one after the other. False: the lease has run out, or the node is about to leave.
async fn render_all(node: &Node, batch: &Batch, work: &Work, slot: &mut Slot, late: &Late) -> bool {
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
    let context = BatchContext { node, batch, work, scene, layout, late };
    let mut deaths = Deaths::default();
    for slice in &work.slices {
        if !node.may_publish(batch) || node.draining.is_cancelled() {
            return false;
        }
        batch.push(started(slice));
        debug!(batch = %BatchName(batch.id()), job = work.origin.job_id, frame = slice.frame, "frame begun");
        let result = match deaths.verdict(slice.frame) {
            Some(error) => Err(failure(error, slot)),
            None => try_slice(&context, slot, slice).await,
        };
        if let Err(failure) = &result
            && work.span.is_some()
            && failure.reason() == FailureReason::Renderer
        {
            deaths.count(slot.died_at());
        }
        let result = result.transpose();
        // What is told of later is on its way.
        if result.is_some_and(|result| !tell(node, batch, slice, result)) {
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

/// Tells what became of a slice. False: the lease has run out, and what was drawn meanwhile is somebody else's by
/// now. It stays in the outbox, to be offered.
fn tell(node: &Node, batch: &Batch, slice: &Slice, result: Result<SliceFinished, Failure>) -> bool {
    if !node.may_publish(batch) {
        return false;
    }
    match result {
        Ok(finished) => {
            batch.push(Event::Finished(finished));
            node.outbox.told(batch.id(), slice);
        }
        Err(failure) => {
            warn!(
                batch = %BatchName(batch.id()),
                frame = slice.frame,
                reason = failure.reason().as_str_name(),
                message = failure.message,
                "a try at a frame failed",
            );
            batch.push(failed(slice, failure));
        }
    }
    true
}

/// One try at a slice, within its limit. `None`: it is drawn, and told of when it is stored.
async fn try_slice(
    context: &BatchContext<'_>,
    slot: &mut Slot,
    slice: &Slice,
) -> Result<Option<SliceFinished>, Failure> {
    let BatchContext { node, batch, work, scene, layout, late } = context;
    // The frame's own: what is in it afterwards is what the frame produced. Ends with this function.
    let folder = if slot.needs_folder() || work.encoding.is_some() {
        // A renderer that meets a full disk fails in ways of its own.
        if let Some(free_bytes) = node.low_disk() {
            return Err(disk_full(free_bytes));
        }
        let folder = tempfile::Builder::new().prefix("frame-").tempdir_in(&node.work);
        Some(folder.map_err(|error| infrastructure(format!("cannot make a folder: {error}")))?)
    } else {
        None
    };
    let path = folder.as_ref().map_or_else(PathBuf::new, |folder| folder.path().to_owned());
    // Fetching a Blender is no part of the try.
    let prepared = slot.prepare(scene, slice.frame, observer(batch, slice)).await;
    prepared.map_err(|error| failure(error, slot))?;
    // A Blender that takes over an animation also draws the earlier frames, and has the time of one frame for each
    // of them.
    let frames = slot.frames_to(scene, slice.frame);
    let drawing = async {
        match (&work.encoding, layout) {
            (Some(encoding), Some(layout)) => {
                encode::make_movie(context, slot, layout, encoding, slice, &path).await
            }
            _ => render_one(context, slot, slice, &path).await,
        }
    };
    let drawn = match work.limits.frame {
        None => drawing.await,
        Some(limit) => match time::timeout(limit.saturating_mul(frames), drawing).await {
            Ok(drawn) => drawn,
            Err(_) => {
                end(node, slot).await;
                Err(failure(too_long(limit, frames), slot))
            }
        },
    };
    let DrawnSlice { finished, mut blobs } = match drawn {
        Ok(drawn) => drawn,
        // Whatever the renderer says about it.
        Err(failure) => return Err(node.low_disk().map_or(failure, disk_full)),
    };
    let kept = node.outbox.keep(&work.origin, &finished, &mut blobs);
    if let Err(error) = kept {
        debug!(batch = %BatchName(batch.id()), frame = slice.frame, %error, "a frame is not kept");
        // With nowhere to put it, the next one has to wait.
        let stored = node.outbox.store_at_last(&blobs).await;
        return stored.map(|()| Some(finished)).map_err(|error| infrastructure(error.to_string()));
    }
    // Frames reach the store in their order.
    if late.waiting.load(Ordering::Acquire) == 0 {
        match node.outbox.store(&blobs).await {
            Ok(()) => return Ok(Some(finished)),
            Err(error) if !outbox::is_the_stores(&error) => {
                return Err(infrastructure(error.to_string()));
            }
            Err(_) => {}
        }
    }
    late.waiting.fetch_add(1, Ordering::AcqRel);
    // Whoever receives them ends later, unless the batch is cancelled.
    let _ = late.queue.send(KeptFrame { finished, blobs });
    Ok(None)
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

/// What a slice has become, not stored yet.
pub(super) struct DrawnSlice {
    pub(super) finished: SliceFinished,
    pub(super) blobs: Vec<Blob>,
}

/// Draws a frame into `folder`, which is its own.
async fn render_one(
    context: &BatchContext<'_>,
    slot: &mut Slot,
    slice: &Slice,
    folder: &Path,
) -> Result<DrawnSlice, Failure> {
    let BatchContext { batch, scene, .. } = context;
    let drawing = slot
        .render(scene, slice.frame, folder, observer(batch, slice))
        .await
        .map_err(|error| failure(error, slot))?;
    let CheckedFrame { outputs, small } = match drawing.drawn {
        Drawn::Checked(checked) => CheckedFrame { outputs: vec![checked], small: None },
        Drawn::InFolder(promise) => {
            let checked = output::check(folder.to_owned(), slice.frame, promise).await;
            match (checked, drawing.crash) {
                (Ok(frame), None) => frame,
                (Ok(frame), Some(crash)) => {
                    let text = format!("{} after it had written the whole frame", crash.message);
                    batch.warn(Warning { kind: WarningKind::CrashedAfter.into(), text });
                    frame
                }
                (Err(_), Some(crash)) => return Err(failure(crash, slot)),
                (Err(error), None) => {
                    let error = RenderError::new(FailureReason::InvalidOutput, error.to_string());
                    let failure = failure(error, slot);
                    // What drew nothing good once is not trusted with the next frame.
                    slot.kill().await;
                    return Err(failure);
                }
            }
        }
    };
    let (preview, picture) = match small {
        Some(small) => slot.preview(small).await.unzip(),
        None => (None, None),
    };
    let (outputs, blobs): (Vec<_>, Vec<_>) =
        outputs.into_iter().map(|checked| (checked.output, checked.blob)).unzip();
    let finished = SliceFinished {
        slice: Some(*slice),
        outputs,
        render_seconds: drawing.render_seconds,
        peak_memory_bytes: drawing.peak_memory_bytes,
        preview,
    };
    Ok(DrawnSlice { finished, blobs: blobs.into_iter().chain(picture).collect() })
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

pub(super) fn failure(error: RenderError, slot: &Slot) -> Failure {
    Failure { reason: error.reason.into(), message: error.message, log_tail: slot.log_tail() }
}

pub(super) fn infrastructure(message: String) -> Failure {
    let error = RenderError::new(FailureReason::Infrastructure, message);
    Failure { reason: error.reason.into(), message: error.message, log_tail: Vec::new() }
}

fn disk_full(free_bytes: u64) -> Failure {
    infrastructure(format!("the node's disk is full: only {free_bytes} bytes are free on it"))
}

fn too_long(limit: Duration, frames: u32) -> RenderError {
    let seconds = limit.as_secs();
    let message = match frames {
        1 => format!(
            "the frame was not done after {seconds} seconds, the limit that --frame-limit sets, and was ended"
        ),
        _ => format!(
            "the frame and the {} that it continues were not done after {seconds} seconds for each of them, the limit \
             that --frame-limit sets, and were ended",
            frames - 1
        ),
    };
    RenderError::new(FailureReason::Timeout, message)
}

fn started(slice: &Slice) -> Event {
    Event::Started(SliceStarted { slice: Some(*slice) })
}

fn failed(slice: &Slice, failure: Failure) -> Event {
    Event::Failed(SliceFailed { slice: Some(*slice), failure: Some(failure) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{node::tests::node, platform};

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

    #[tokio::test]
    async fn what_was_drawn_while_the_lease_ran_out_is_not_told() {
        let (node, _folder) = node(0);
        let slice = Slice { frame: 1, index: 0 };
        let finished = || Ok(SliceFinished { slice: Some(slice), ..SliceFinished::default() });
        let batch = Batch::new(1, Duration::ZERO);
        assert!(!tell(&node, &batch, &slice, finished()), "there is no lease");
        assert!(!batch.has_events());
        let ago = platform::uptime().saturating_sub(Duration::from_secs(1));
        node.lease.renew(ago, Duration::from_millis(900));
        assert!(!tell(&node, &batch, &slice, finished()), "it has run out");
        assert!(!batch.has_events());
        let patient = Batch::new(2, Duration::from_secs(3_600));
        assert!(tell(&node, &patient, &slice, finished()), "its job waits longer");
        assert!(patient.has_events());
        node.lease.renew(platform::uptime(), Duration::from_secs(3_600));
        batch.cancel();
        assert!(!tell(&node, &batch, &slice, finished()), "a new lease does not bring it back");
        assert!(!batch.has_events());
    }
}
