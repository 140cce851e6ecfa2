//! Checks that Blenders start the way they do for a job.

use std::io;

use futures::future;

use super::FoundBlender;
use crate::{
    confine::{self, Workplace},
    project::LAYOUTS,
    renderer,
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
    let starts = blenders.iter().map(|blender| renderer::prove(blender.clone(), &place));
    Ok(future::join_all(starts).await)
}
