//! The slice that is a movie.

use framecrew_proto::v1::{Failure, Slice, SliceFinished};
use tokio::time::Instant;

use super::{
    Batch,
    run::{failure, infrastructure, observer, store},
};
use crate::{
    movie::{self, Encoding, MovieError},
    node::Node,
    output::Checked,
    project::Layout,
    renderer::{Scene, Slot},
};

/// Makes a movie of images in a project, with the sound of its scene.
pub(super) async fn make_movie(
    node: &Node,
    batch: &Batch,
    slot: &mut Slot,
    scene: &Scene,
    layout: &Layout,
    encoding: &Encoding,
    slice: &Slice,
) -> Result<SliceFinished, Failure> {
    let Some(ffmpeg) = &node.ffmpeg else {
        return Err(infrastructure("this node has no ffmpeg".into()));
    };
    let no_folder = |error| infrastructure(format!("cannot make a folder: {error}"));
    let folder = tempfile::Builder::new().prefix("movie-").tempdir_in(&node.work);
    let folder = folder.map_err(no_folder)?;
    let begun = Instant::now();
    let sound = folder.path().join("sound");
    std::fs::create_dir(&sound).map_err(no_folder)?;
    let soundtrack = slot
        .soundtrack(scene, encoding.span, &sound, observer(batch, slice))
        .await
        .map_err(|error| failure(error, slot))?;
    let images = encoding.images.iter().map(|image| layout.path(image)).collect();
    let made =
        movie::make(ffmpeg, encoding, images, &soundtrack, folder.path(), observer(batch, slice));
    let movie = made.await.map_err(|MovieError { error, log_tail }| Failure {
        reason: error.reason.into(),
        message: error.message,
        log_tail,
    })?;
    let checked = Checked::of_movie(movie)
        .await
        .map_err(|error| infrastructure(format!("the movie cannot be read: {error}")))?;
    store(node, [&checked.blob]).await?;
    Ok(SliceFinished {
        slice: Some(*slice),
        outputs: vec![checked.output],
        render_seconds: begun.elapsed().as_secs_f64(),
        peak_memory_bytes: 0,
        preview: None,
    })
}
