//! What a node is told.

use std::{path::PathBuf, time::Duration};

use crate::{
    confine::Confine,
    outbox::OUTBOX_BYTES,
    project::CACHE_BYTES,
    renderer::{InjectedFaults, RendererChoice},
};

/// How long a node that leaves waits for what is being drawn unless it is told otherwise: most frames of people who
/// watch it end are done by then, and a machine that is shut down still waits for it.
const DRAIN: Duration = Duration::from_secs(60);

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name in the cluster, 1 to 100 characters; one live node bears it.
    pub name: String,
    /// Where the orchestrator is, like `http://10.0.0.1:4000`.
    pub orchestrator: String,
    /// Where the orchestrator reaches this node, like `http://10.0.0.7:3000`; absent: at the address it
    /// registers from, on the port it listens on.
    pub advertise: Option<String>,
    /// Slices it renders at a time, 1 to 64.
    pub slots: u32,
    /// Tags it bears: jobs can ask for nodes that have them.
    pub tags: Vec<String>,
    /// What draws.
    pub renderer: RendererChoice,
    /// Folder of its own for projects and unfinished frames.
    pub data: PathBuf,
    /// Whether what renders must be confined.
    pub confine: Confine,
    /// Whether it renders jobs whose files run their own Python.
    pub allow_scripts: bool,
    /// What makes movies; absent: the ffmpeg on the PATH, if there is one.
    pub ffmpeg: Option<PathBuf>,
    /// Bytes that the projects it keeps take at most; the ones used longest ago go.
    pub cache_bytes: u64,
    /// Bytes that finished frames take at most which are not handed in; from 80 % on it takes no work.
    pub outbox_bytes: u64,
    /// How long slices that are being drawn may take to end when the node is asked to leave.
    pub drain: Duration,
    /// What a synthetic renderer does wrong.
    pub faults: InjectedFaults,
    /// Cache into which Blenders are fetched that a job needs and this machine lacks; absent: none are.
    pub provision: Option<PathBuf>,
}

impl Config {
    /// A node of one slot with nothing out of the ordinary.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        orchestrator: impl Into<String>,
        renderer: RendererChoice,
        data: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            orchestrator: orchestrator.into(),
            advertise: None,
            slots: 1,
            tags: Vec::new(),
            renderer,
            data: data.into(),
            confine: Confine::default(),
            allow_scripts: false,
            ffmpeg: None,
            cache_bytes: CACHE_BYTES,
            outbox_bytes: OUTBOX_BYTES,
            drain: DRAIN,
            faults: InjectedFaults::default(),
            provision: None,
        }
    }
}

impl Config {
    /// Whether it asks a real Blender to do something wrong.
    pub(crate) fn has_idle_faults(&self) -> bool {
        !self.faults.is_empty() && !matches!(self.renderer, RendererChoice::Synthetic(_))
    }
}
