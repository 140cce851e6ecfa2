use clap::Args;
use framecrew::{
    proto::BlenderKind,
    view::{Table, words},
};

use super::{Global, jobs::ago};
use crate::console::{Exit, Failure, say, say_json};

/// List the nodes of the cluster
#[derive(Debug, Args)]
pub(crate) struct Nodes {}

impl Nodes {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let nodes = cluster.nodes().await?;
        if global.json {
            nodes.iter().try_for_each(say_json)?;
            return Ok(Exit::Success);
        }
        if nodes.is_empty() {
            say(format_args!(
                "no nodes yet; start one with `framecrew-node --orchestrator {}`",
                cluster.url()
            ))?;
            return Ok(Exit::Success);
        }
        let mut table = Table::new([
            "NODE", "STATE", "SLOTS", "WORK", "FINISHED", "CORES", "MEMORY", "BLENDER", "FFMPEG",
            "SCRIPTS", "TAGS", "SEEN",
        ]);
        for node in nodes {
            let state = words::node_state(node.state()).into();
            let description = node.description.unwrap_or_default();
            let blenders = description.blenders.iter().map(|blender| match blender.kind() {
                BlenderKind::Synthetic => "synthetic".to_owned(),
                BlenderKind::Provisionable => format!("{} on demand", blender.version),
                _ => blender.version.clone(),
            });
            let blenders: Vec<_> = blenders.collect();
            table.row([
                node.name,
                state,
                description.slots.to_string(),
                node.unsettled_slices.to_string(),
                node.finished_slices.to_string(),
                description.cores.to_string(),
                words::bytes(description.memory_bytes),
                blenders.join(", "),
                if description.ffmpeg.is_empty() { "none".into() } else { description.ffmpeg },
                if description.allows_scripts { "allowed" } else { "no" }.into(),
                description.tags.join(", "),
                ago(node.seen_at_ms),
            ]);
        }
        say(table)?;
        Ok(Exit::Success)
    }
}
