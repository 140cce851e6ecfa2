//! Checks that Blenders start the way they do for a job.

use std::io;

use futures::future;

use super::{
    scene::Scene,
    worker::{NotStarted, Worker},
};
use crate::{
    blender::FoundBlender,
    confine::{self, Workplace},
    project::LAYOUTS,
};

/// Starts each of these Blenders the way a node does for a job: within walls if this system has them, and with the
/// environment of a job. Returns for each why it does not start. Needs a tokio runtime.
///
/// # Errors
/// When there is no folder for temporary files.
pub async fn prove(blenders: &[FoundBlender]) -> io::Result<Vec<Result<(), String>>> {
    let folder = tempfile::tempdir()?;
    let root = std::fs::canonicalize(folder.path())?;
    let (work, layouts) = (root.join("work"), root.join(LAYOUTS));
    for folder in [&work, &layouts] {
        std::fs::create_dir(folder)?;
    }
    let place = Workplace { work, layouts, confined: confine::probe().is_ok() };
    let starts = blenders.iter().map(|blender| prove_one(blender.clone(), &place));
    Ok(future::join_all(starts).await)
}

/// Starts a Blender as for a job, and ends it. The error says why it does not start.
async fn prove_one(blender: FoundBlender, workplace: &Workplace) -> Result<(), String> {
    match Worker::start(blender, workplace, &Scene::none(), &mut |_| ()).await {
        Ok(mut worker) => {
            worker.kill().await;
            Ok(())
        }
        Err(NotStarted::Node(error)) => Err(error.message),
        Err(NotStarted::Blender { why, .. }) => Err(why),
    }
}
