use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, builder::FalseyValueParser};
use framecrew::{
    Cluster,
    proto::{BlenderKind, Node, NodeStatus},
    view::Table,
    words,
};
use futures::{StreamExt as _, stream};

use super::{global::Global, jobs::ago};
use crate::console::{Exit, Failure, say, say_json};

/// Nodes asked at a time.
const ASKED_AT_A_TIME: usize = 32;

/// List the nodes of the cluster
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Ask each node itself as well: the finished frames that it keeps for the orchestrator, and whether the
    /// operating system keeps its renderers to their own folders
    #[arg(short, long, env = "FRAMECREW_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
}

impl Nodes {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let nodes = cluster.nodes().await?;
        if global.json {
            nodes.iter().try_for_each(say_json)?;
        } else if nodes.is_empty() {
            say(format_args!(
                "no nodes yet; start one with `framecrew-node --orchestrator {}`",
                cluster.url()
            ))?;
        } else {
            say(table(&nodes))?;
            let now_ms = unix_ms();
            nodes.iter().filter_map(|node| words::why_idle(node, now_ms)).try_for_each(say)?;
            nodes.iter().flat_map(words::unusable_blenders).try_for_each(say)?;
        }
        if self.verbose {
            show_inside(&cluster, &nodes, global.json).await?;
        }
        Ok(Exit::Success)
    }
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new([
        "NODE", "STATE", "SLOTS", "WORK", "FINISHED", "CORES", "MEMORY", "BLENDER", "FFMPEG",
        "SCRIPTS", "TAGS", "SEEN",
    ]);
    for node in nodes {
        let description = node.description.clone().unwrap_or_default();
        let blenders = description.blenders.iter().map(|blender| match blender.kind() {
            _ if !blender.unusable.is_empty() && blender.version.is_empty() => "one asked".into(),
            _ if !blender.unusable.is_empty() => format!("({})", blender.version),
            BlenderKind::Synthetic => "synthetic".to_owned(),
            BlenderKind::Provisionable => format!("{} on demand", blender.version),
            _ => blender.version.clone(),
        });
        let blenders: Vec<_> = blenders.collect();
        table.row([
            node.name.clone(),
            words::node_state(node.state()).into(),
            description.slots.to_string(),
            node.unsettled_slices.to_string(),
            node.finished_slices.to_string(),
            description.cores.to_string(),
            words::bytes(description.memory_bytes),
            if blenders.is_empty() { "looking for it".into() } else { blenders.join(", ") },
            if description.ffmpeg.is_empty() { "none".into() } else { description.ffmpeg },
            if description.allows_scripts { "allowed" } else { "no" }.into(),
            description.tags.join(", "),
            ago(node.seen_at_ms),
        ]);
    }
    table
}

/// What only the nodes themselves know.
async fn show_inside(cluster: &Cluster, nodes: &[Node], json: bool) -> Result<(), Failure> {
    let asked = stream::iter(nodes).map(|node| async move { (node, cluster.describe(node).await) });
    let answers: Vec<_> = asked.buffered(ASKED_AT_A_TIME).collect().await;
    if json {
        return answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
            .try_for_each(say_json);
    }
    let mut table =
        Table::new(["NODE", "BUSY", "KEPT FRAMES", "KEPT", "CONFINED", "LEASE", "ADDRESS"]);
    for (node, answer) in &answers {
        let (name, address) = (node.name.clone(), node.address.clone());
        let Ok(answer) = answer else {
            let none = String::new;
            let confined = node.description.as_ref().is_some_and(|it| it.confines);
            let silent = "does not answer here".to_owned();
            table.row([name, silent, none(), none(), yes_or_no(confined), none(), address]);
            continue;
        };
        let NodeStatus { busy_slots, leased, kept_frames, kept_bytes, kept_bytes_max, .. } =
            answer.status.clone().unwrap_or_default();
        let kept = match kept_frames {
            0 => String::new(),
            _ => format!("{} of {}", words::bytes(kept_bytes), words::bytes(kept_bytes_max)),
        };
        let description = answer.description.clone().unwrap_or_default();
        table.row([
            name,
            format!("{busy_slots} of {}", description.slots),
            kept_frames.to_string(),
            kept,
            yes_or_no(description.confines),
            yes_or_no(leased),
            address,
        ]);
    }
    say("")?;
    say(table)
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
