use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use framecrew::BlenderVersion;

use super::{
    Global,
    local_session::{LocalSession, Plan},
    renderer::Renderer,
};
use crate::console::{Exit, Failure, Interrupts, again, note, paths, say, say_json};

/// What will be rendered is not known yet.
const ANY_VERSION: BlenderVersion = BlenderVersion::new(0, 0);

/// Run a cluster on this machine: an orchestrator and its nodes, until Ctrl-C
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Nodes; one makes the best use of a machine, as Blender uses every core
    #[arg(short, long, env = "FRAMECREW_NODES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64), value_name = "COUNT")]
    nodes: u8,
    /// Folder for jobs and frames; the same one goes on where it was left [default: in the user's data folder]
    #[arg(short, long, env = "FRAMECREW_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen for clients and further nodes
    #[arg(
        short,
        long,
        env = "FRAMECREW_LISTEN",
        default_value = "127.0.0.1:4000",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Render jobs that run their files' own Python (`render --run-scripts`), too: whoever may submit can then run
    /// programs here
    #[arg(long, env = "FRAMECREW_ALLOW_SCRIPTS", value_parser = clap::builder::FalseyValueParser::new())]
    allow_scripts: bool,
    #[command(flatten)]
    renderer: Renderer,
}

impl Up {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let data = self.data.map_or_else(paths::data, Ok)?;
        let mut interrupts = Interrupts::listen()?;
        if !self.listen.ip().is_loopback() {
            note(format_args!(
                "note: there is no authentication: anyone who can reach {} can render here and read the results",
                self.listen
            ));
        }
        let plan = Plan {
            nodes: self.nodes,
            renderer: &self.renderer,
            needs: ANY_VERSION,
            data: data.clone(),
            listen: self.listen,
            allow_scripts: self.allow_scripts,
        };
        let Some(mut here) = LocalSession::start(plan, &mut interrupts).await? else {
            return Ok(Exit::Interrupted);
        };
        let url = here.cluster().url().to_owned();
        let ready = if global.json {
            say_json(&serde_json::json!({ "url": url, "nodes": self.nodes, "data": data }))
        } else {
            let render = again(here.cluster(), "render FILE");
            say(format_args!(
                "the cluster is up at {url}, with {} and its data in {}\n\
                 next: {render}\n\
                 Ctrl-C stops it; what was submitted is kept",
                framecrew::words::plural(self.nodes.into(), "node"),
                data.display()
            ))
        };
        let ended = match ready {
            Ok(()) => tokio::select! {
                _ = interrupts.next() => Ok(Exit::Success),
                failure = here.failed() => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        note("stopping");
        here.stop().await;
        ended
    }
}
