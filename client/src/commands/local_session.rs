//! A cluster in this process, for the commands that bring their own.

use std::{net::SocketAddr, path::PathBuf};

use framecrew::{
    BlenderVersion, Cluster, JobView, LocalCluster, LocalConfig, OutputFile, OutputFolder, Project,
    local::{LocalError, check_address},
    words::plural,
};
use framecrew_node::RendererChoice;

use super::{renderer::Renderer, submit::submit};
use crate::console::{Ending, Exit, Failure, Follow, Interrupts, note};

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

/// A running cluster in this process. Call [`stop`](Self::stop): a drop does not end the renderers.
pub(crate) struct LocalSession {
    local: LocalCluster,
}

impl LocalSession {
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
