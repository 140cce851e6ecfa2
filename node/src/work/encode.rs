//! The slice that is a movie.

use std::path::Path;

use framecrew_proto::v1::{Failure, Slice, SliceFinished};
use tokio::time::Instant;

use super::context::{BatchContext, DrawnSlice, failure, infrastructure, observer};
use crate::{
    movie::{self, Encoding, MovieError},
    output::Checked,
    project::Layout,
    renderer::Slot,
};

/// Makes a movie of images in a project, with the sound of its scene, in `folder`, which is its own.
pub(super) async fn make_movie(
    context: &BatchContext<'_>,
    slot: &mut Slot,
    layout: &Layout,
    encoding: &Encoding,
    slice: &Slice,
    folder: &Path,
) -> Result<DrawnSlice, Failure> {
    let BatchContext { node, batch, scene, .. } = context;
    let Some(ffmpeg) = node.ffmpeg() else {
        return Err(infrastructure("this node has no ffmpeg".into()));
    };
    let no_folder = |error| infrastructure(format!("cannot make a folder: {error}"));
    let begun = Instant::now();
    let sound = folder.join("sound");
    std::fs::create_dir(&sound).map_err(no_folder)?;
    let soundtrack = slot
        .soundtrack(scene, encoding.span, &sound, observer(batch, slice))
        .await
        .map_err(|error| failure(error, slot))?;
    let images = encoding.images.iter().map(|image| layout.path(image)).collect();
    let made = movie::make(
        &ffmpeg,
        encoding,
        images,
        &soundtrack,
        folder,
        scene.silence,
        observer(batch, slice),
    );
    let movie = made.await.map_err(|MovieError { error, log_tail }| Failure {
        reason: error.reason.into(),
        message: error.message,
        log_tail,
    })?;
    let checked = Checked::of_movie(movie.path, movie.name, movie.size)
        .await
        .map_err(|error| infrastructure(format!("the movie cannot be read: {error}")))?;
    let finished = SliceFinished {
        slice: Some(*slice),
        outputs: vec![(&checked).into()],
        render_seconds: begun.elapsed().as_secs_f64(),
        peak_memory_bytes: 0,
        preview: None,
    };
    Ok(DrawnSlice { finished, blobs: vec![checked.blob] })
}
