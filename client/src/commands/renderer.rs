//! What the nodes of a cluster in this process draw with: Blender, found or provisioned, or synthetic frames.

use clap::Args;
use framecrew::{BlenderVersion, words::bytes};
use framecrew_node::{
    RendererChoice,
    blender::{self, FoundBlender, ProvisionProgress},
};

use crate::console::{Failure, ProgressLine, note};

/// What the nodes of a cluster in this process draw with.
#[derive(Debug, Args)]
pub(crate) struct Renderer {
    /// What the nodes draw with: `blender`, found here or provisioned, or `synthetic:200ms`, which draws small
    /// pictures in that time, for load tests
    #[arg(long, env = "FRAMECREW_RENDERER", default_value = "blender", value_name = "RENDERER")]
    renderer: RendererChoice,
}

impl Renderer {
    /// Finds Blender, or gets it there.
    pub(super) async fn choose(&self, needs: BlenderVersion) -> Result<RendererChoice, Failure> {
        match &self.renderer {
            RendererChoice::Blender(_) => {
                let found = tokio::task::spawn_blocking(move || find_or_provision(needs)).await;
                let found =
                    found.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
                Ok(RendererChoice::Blender(found))
            }
            synthetic => Ok(synthetic.clone()),
        }
    }
}

/// The Blenders of this machine, one of which can open what `needs` saved; where there is none, gets one.
/// Blocks, for minutes where it has to.
fn find_or_provision(needs: BlenderVersion) -> Result<Vec<FoundBlender>, Failure> {
    // This starts every Blender to ask for its version, which takes half a minute on a busy machine.
    note("looking for Blender …");
    let cache = blender::default_cache();
    let is_enough = |found: &FoundBlender| {
        (found.version.major, found.version.minor) >= (needs.major, needs.minor)
    };
    let found = blender::find(&[], &cache);
    if found.iter().any(is_enough) {
        return Ok(found);
    }
    let mut line = ProgressLine::default();
    let provisioned = blender::provision(&cache, |progress| match progress {
        ProvisionProgress::Begin { what, folder, download_bytes, installed_bytes } => {
            note(format_args!(
                "no Blender here that can open this file: getting {what} into {} ({} to download, {} on disk)",
                folder.display(),
                bytes(download_bytes),
                bytes(installed_bytes)
            ))
        }
        ProvisionProgress::Downloading { done_bytes, total_bytes } => {
            line.show("downloading Blender", done_bytes, total_bytes);
        }
        ProvisionProgress::Installing { done_bytes, total_bytes } => {
            line.show("installing Blender", done_bytes, total_bytes);
        }
    });
    line.clear();
    let provisioned = provisioned.map_err(|error| Failure::usage(error.to_string()))?;
    let missing = blender::missing_libraries(&provisioned);
    let installed = blender::install_libraries(&missing, |command| {
        note(format_args!("Blender lacks system libraries: running `{command}`"));
    });
    match installed {
        // Cycles draws without them.
        Err(error) if missing.iter().all(|library| library.only_for_eevee) => {
            note(format_args!("EEVEE and Workbench may not draw: {error}"));
        }
        installed => installed.map_err(|error| Failure::usage(error.to_string()))?,
    }
    let found = blender::find(&[], &cache);
    if found.iter().any(is_enough) {
        return Ok(found);
    }
    Err(Failure::usage(format!(
        "no Blender {needs} or newer starts here; `framecrew doctor` may say why"
    )))
}
