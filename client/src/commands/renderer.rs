//! A cluster in this process, for the commands that bring their own: what it draws with, and its life.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use framecrew::{
    BlenderVersion, Cluster, JobView, LocalCluster, LocalConfig, OutputFile, OutputFolder, Project,
    local::{LocalError, check_address},
    view::words::{bytes, plural},
};
use framecrew_node::{
    RendererChoice,
    blender::{self, FoundBlender, ProvisionProgress},
};

use super::render::submit;
use crate::console::{Ending, Exit, Failure, Follow, Interrupts, ProgressLine, note};

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
    async fn choose(&self, needs: BlenderVersion) -> Result<RendererChoice, Failure> {
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

/// What a cluster in this process is to be.
pub(crate) struct Plan<'a> {
    /// Nodes, 1 to 64.
    pub(crate) nodes: u8,
    /// What they draw with.
    pub(crate) renderer: &'a Renderer,
    /// What saved the .blend to render: no older Blender will do.
    pub(crate) needs: BlenderVersion,
    /// Folder for all it keeps.
    pub(crate) data: PathBuf,
    /// Where its orchestrator listens.
    pub(crate) listen: SocketAddr,
    /// Whether its nodes render jobs whose files run their own Python.
    pub(crate) allow_scripts: bool,
}

/// A cluster in this process. Stop it; a drop would leave the renderers to their fate.
pub(crate) struct Here {
    local: LocalCluster,
}

impl Here {
    /// Starts it, with what it draws with found or fetched first: a Blender not older than `needs`. `None`
    /// when interrupted meanwhile.
    pub(crate) async fn start(
        plan: Plan<'_>,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Self>, Failure> {
        let Plan { nodes, renderer, needs, data, listen, allow_scripts } = plan;
        let starting = async {
            check_address(listen).await?;
            let renderer = renderer.choose(needs).await?;
            if let RendererChoice::Blender(found) = &renderer {
                let versions: Vec<_> =
                    found.iter().map(|found| found.version.to_string()).collect();
                note(format_args!(
                    "found Blender {}; starting an orchestrator and {}",
                    versions.join(", "),
                    plural(nodes.into(), "node")
                ));
            }
            let config = LocalConfig {
                listen,
                allow_scripts,
                ..LocalConfig::new(nodes.into(), data, renderer)
            };
            Ok(LocalCluster::start(config).await?)
        };
        tokio::select! {
            local = starting => local.map(|local| Some(Self { local })),
            _ = interrupts.next() => Ok(None),
        }
    }

    /// A connection to it.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.local.cluster()
    }

    /// Renders a project into a folder, and its movie into a file; `None` when interrupted.
    pub(crate) async fn render(
        &mut self,
        project: &Project,
        folder: &OutputFolder,
        movie: Option<&OutputFile>,
        json: bool,
        interrupts: &mut Interrupts,
    ) -> Result<Option<JobView>, Failure> {
        let cluster = self.cluster().clone();
        let rendering = async {
            let job = submit(&cluster, project).await?;
            let follow = Follow {
                cluster: &cluster,
                job_id: job.id(),
                folder: Some(folder),
                movie,
                outlives: false,
                json,
            };
            follow.run(interrupts).await
        };
        let ending = tokio::select! {
            ending = rendering => ending?,
            failure = self.failed() => return Err(failure),
        };
        match ending {
            Ending::Over(view) => Ok(Some(*view)),
            Ending::Interrupted(_) => {
                note(format_args!(
                    "stopping; the frames that are finished are in {}",
                    folder.path().display()
                ));
                Ok(None)
            }
        }
    }

    /// Waits until a part of it stops by itself.
    pub(crate) async fn failed(&mut self) -> Failure {
        self.local.failed().await.into()
    }

    /// Ends it, its renderers included.
    pub(crate) async fn stop(self) {
        self.local.shutdown().await;
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let exit = match error {
            LocalError::PortInUse { .. } | LocalError::Listen { .. } => Exit::Usage,
            LocalError::NotJoined { .. } => Exit::Unreachable,
            LocalError::Stopped { .. } => Exit::JobFailed,
            LocalError::Cluster(error) => return error.into(),
        };
        Self { exit, text: error.to_string() }
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
