//! One attempt at a slice: render it, check what came out, keep it, store it.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use framecrew_proto::v1::{self, Failure, Slice, SliceFinished, Warning, WarningKind};
use tokio::time;
use tracing::debug;

use super::{
    context::{BatchContext, DrawnSlice, KeptFrame, end, failure, infrastructure, named, observer},
    encode,
};
use crate::{
    core::{self, JournalId},
    failure::FailureReason,
    node::{Caller, Command},
    outbox::NotKept,
    output::{self, Blob, CheckedFrame},
    renderer::{Drawn, RenderError, Slot},
    uploads,
};

/// One attempt at a slice, within its limit. `None`: it is rendered, and reported when it is stored.
pub(super) async fn try_slice(
    context: &BatchContext<'_>,
    slot: &mut Slot,
    slice: &Slice,
) -> Result<Option<SliceFinished>, Failure> {
    let BatchContext { node, batch, work, scene, layout, .. } = context;
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
    let DrawnSlice { finished, blobs } = match drawn {
        Ok(drawn) => drawn,
        // Whatever the renderer says about it.
        Err(failure) => return Err(node.low_disk().map_or(failure, disk_full)),
    };
    keep_and_store(context, slice, finished, blobs).await
}

/// Keeps a finished frame, and stores its blobs unless that has to wait. `None`: it is reported when it is stored.
async fn keep_and_store(
    context: &BatchContext<'_>,
    slice: &Slice,
    finished: SliceFinished,
    mut blobs: Vec<Blob>,
) -> Result<Option<SliceFinished>, Failure> {
    let BatchContext { node, batch, work, pending, .. } = context;
    let journal = JournalId::Of(batch.key());
    // First: a kill between the two would leave a frame on the disk that the core does not know.
    let message = node.reserve().await;
    let kept = node.outbox.keep(journal, &work.origin, &finished, &mut blobs);
    if let Some(message) = message
        && !matches!(kept, Err(NotKept::Full))
    {
        let event = core::Event::SliceKept { batch: batch.key(), slice: named(slice) };
        message.send(Command { event, caller: Caller::None });
    }
    if let Err(error) = kept {
        debug!(batch = %batch.key().id, frame = slice.frame, %error, "a frame is not kept");
        // With nowhere to put it, the next one has to wait.
        let stored = node.uploads.store_at_last(&blobs).await;
        return stored.map(|()| Some(finished)).map_err(|error| infrastructure(error.to_string()));
    }
    // Frames reach the store in their order.
    if pending.count.load(Ordering::Acquire) == 0 {
        match node.uploads.store(&blobs).await {
            Ok(()) => return Ok(Some(finished)),
            Err(error) if !uploads::is_the_stores(&error) => {
                return Err(infrastructure(error.to_string()));
            }
            Err(_) => {}
        }
    }
    pending.count.fetch_add(1, Ordering::AcqRel);
    // The receiver ends after this, unless the batch is killed.
    let _ = pending.queue.send(KeptFrame { finished, blobs });
    Ok(None)
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
        Some(small) => {
            let preview = slot.preview(small).await;
            preview.map(|preview| (v1::Preview::from(&preview), preview.blob)).unzip()
        }
        None => (None, None),
    };
    let (outputs, blobs): (Vec<_>, Vec<_>) =
        outputs.into_iter().map(|checked| (v1::Output::from(&checked), checked.blob)).unzip();
    let finished = SliceFinished {
        slice: Some(*slice),
        outputs,
        render_seconds: drawing.render_seconds,
        peak_memory_bytes: drawing.peak_memory_bytes,
        preview,
    };
    Ok(DrawnSlice { finished, blobs: blobs.into_iter().chain(picture).collect() })
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
