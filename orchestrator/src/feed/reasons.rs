//! Sentences that say why something does not proceed: pure functions of the state.

use std::collections::HashSet;

use crate::{
    domain::{BlenderKind, NodeDescription, NodeName, NodeState, NodeView, Requirements, Time},
    scheduler::{NodeLoad, NodeStatus},
};

/// Nodes named in one reason. The others are counted.
const RESTING_NAMED_MAX: usize = 3;

/// Why an open job does not proceed; empty while it does. `nodes`: the live ones. `at_work`: those that draw slices of
/// the job.
pub(super) fn waiting_reason(
    is_held: bool,
    nodes: &[&NodeView],
    at_work: &HashSet<NodeName>,
    requirements: &Requirements,
) -> String {
    if is_held {
        return "the orchestrator cannot write to its store now, perhaps because its disk is full (see its log); nodes \
                keep what they finish, and the job continues when the store can be written again"
            .to_owned();
    }
    if nodes.is_empty() {
        return "no node is registered".to_owned();
    }
    let suitable = nodes.iter().copied().filter(|node| node.description.meets(requirements));
    let suitable: Vec<_> = suitable.collect();
    if suitable.is_empty() {
        let unable = why_none_is_able(nodes, requirements);
        return if unable.is_empty() {
            format!("no registered node has {requirements}")
        } else {
            unable
        };
    }
    why_none_is_available(&suitable, at_work)
}

/// Why none of these suitable nodes gets work; empty if one of them may get some, or draws slices of the job.
fn why_none_is_available(nodes: &[&NodeView], at_work: &HashSet<NodeName>) -> String {
    let rests = |node: &&NodeView| {
        let is_at_work = at_work.contains(&node.name) && node.state != NodeState::Silent;
        let rest = rest(node.state).filter(|_| !is_at_work)?;
        Some(format!("{} is {rest}", node.name))
    };
    let resting: Vec<_> = nodes.iter().filter_map(rests).collect();
    if resting.len() < nodes.len() {
        return String::new();
    }
    let named = resting.len().min(RESTING_NAMED_MAX);
    let more = match resting.len() - named {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("no suitable node is available: {}{more}", resting[..named].join(", "))
}

/// The word for a live node that gets no work; `None` for one that may get some.
fn rest(state: NodeState) -> Option<&'static str> {
    match state {
        NodeState::Idle | NodeState::Rendering | NodeState::Lost | NodeState::Left => None,
        NodeState::Paused => Some("paused"),
        NodeState::Quarantined => Some("quarantined"),
        NodeState::Silent => Some("silent"),
        NodeState::Draining => Some("draining"),
    }
}

/// On which of these nodes the Blender for a job does not start, and why; empty if there is none.
fn why_none_is_able(nodes: &[&NodeView], requirements: &Requirements) -> String {
    let why = |node: &&NodeView| {
        let why = node.description.why_unable(requirements)?;
        Some(format!("on {}: {why}", node.name))
    };
    let unable: Vec<_> = nodes.iter().filter_map(why).collect();
    let named = unable.len().min(RESTING_NAMED_MAX);
    match unable.len() - named {
        _ if unable.is_empty() => String::new(),
        0 => format!("no node can render it now: {}", unable[..named].join("; ")),
        more => {
            format!("no node can render it now: {}; and on {more} more", unable[..named].join("; "))
        }
    }
}

/// The state of a live node, the reason for it, and its end. `trouble`: why the node was last paused.
pub(crate) fn describe_status(load: &NodeLoad, trouble: &str) -> (NodeState, String, Option<Time>) {
    let at_work = if load.has_work { NodeState::Rendering } else { NodeState::Idle };
    match load.standing {
        NodeStatus::Ready => (at_work, String::new(), None),
        NodeStatus::Paused { until } => {
            let reason = match trouble {
                "" => "it could not accept its work; it gets work again soon".to_owned(),
                trouble => format!("{trouble}; it gets work again soon"),
            };
            (NodeState::Paused, reason, Some(until))
        }
        NodeStatus::Quarantined { until, tries } => {
            let reason = format!(
                "its last {tries} attempts failed; it gets one test frame next. If that fails too, check the \
                 machine"
            );
            (NodeState::Quarantined, reason, Some(until))
        }
        NodeStatus::Silent { until, .. } => {
            let reason = "no heartbeat arrived for longer than its lease; unless it comes back, its frames go to \
                 other nodes";
            (NodeState::Silent, reason.to_owned(), Some(until))
        }
        NodeStatus::Unreachable => {
            let reason = "its heartbeats arrive, but it cannot be reached at its address; it is asked to register \
                 again. Check that --listen or --advertise names an address that other machines reach, and that \
                 no firewall blocks it";
            (NodeState::Paused, reason.to_owned(), None)
        }
        NodeStatus::Draining => {
            let reason = "it is shutting down: it finishes its work and gets no more";
            (NodeState::Draining, reason.to_owned(), None)
        }
        NodeStatus::Evicted { until } => {
            let reason = "it did not end a batch as requested, so its lease is not renewed and its frames go to \
                 other nodes; restart it if it does not come back by itself";
            (NodeState::Silent, reason.to_owned(), Some(until))
        }
    }
}

/// What a job requires that no node has, and what to do about it.
pub(crate) fn what_is_missing<'a>(
    requirements: &Requirements,
    nodes: impl Iterator<Item = &'a NodeDescription>,
) -> String {
    let Requirements { file_version, blender, tags, ffmpeg, run_scripts } = requirements;
    let mut nodes: Vec<_> =
        nodes.filter(|node| tags.iter().all(|tag| node.tags.contains(tag))).collect();
    let (tagged, of_tags) = match &*tags.join(", ") {
        "" => (String::new(), String::new()),
        tags => (format!(" with the tags {tags}"), tags.to_owned()),
    };
    if nodes.is_empty() {
        return format!("no node has the tags {of_tags}; start one with --tag, or leave them out");
    }
    let only_blender = Requirements { blender: *blender, ..Requirements::of_file(*file_version) };
    let has = list_blenders(&nodes);
    nodes.retain(|node| node.meets(&only_blender));
    if nodes.is_empty() {
        return match blender {
            Some(wanted) => format!(
                "the job asks for Blender {wanted}, but the nodes{tagged} have {has}; ask for one of those, \
                 or start a node that has it or may fetch it (--provision)"
            ),
            None => format!(
                "the file was saved by Blender {file_version}; an older one may lose some of it, and the \
                 nodes{tagged} have {has}; start a node that has {file_version} or newer, or may fetch it \
                 (--provision), or ask for an older one anyway (--blender)"
            ),
        };
    }
    if *ffmpeg && !nodes.iter().any(|node| !node.ffmpeg.is_empty()) {
        return format!(
            "no node{tagged} has ffmpeg, which makes the movie; install it on one that can render the \
             file and start that again, or leave the movie out"
        );
    }
    if *run_scripts && !nodes.iter().any(|node| node.allows_scripts) {
        return format!(
            "no node{tagged} allows scripts: start one with --allow-scripts, or let the job do without --run-scripts \
             and --addon"
        );
    }
    format!("no single node has all of this: {requirements}; start such a node")
}

/// The versions of the nodes' Blenders, in ascending order.
fn list_blenders(nodes: &[&NodeDescription]) -> String {
    let mut versions: Vec<_> = nodes
        .iter()
        .flat_map(|node| node.blenders.iter().filter(|blender| blender.is_usable()))
        .filter_map(|blender| blender.version)
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A node's name, and a sentence about what it has for jobs.
pub(crate) fn what_it_has(node: &NodeView) -> (String, String) {
    let NodeDescription { blenders, tags, ffmpeg, allows_scripts, .. } = &node.description;
    let blenders = blenders.iter().map(|blender| match blender.version {
        Some(version) if !blender.is_usable() => {
            format!("Blender {version} (does not start: {})", blender.unusable)
        }
        None if !blender.is_usable() => blender.unusable.clone(),
        Some(version) if blender.kind == BlenderKind::Provisionable => {
            format!("Blender {version} (fetched when needed)")
        }
        Some(version) => format!("Blender {version}"),
        None => "the synthetic renderer".to_owned(),
    });
    let mut has = blenders.collect::<Vec<_>>().join(", ");
    if !ffmpeg.is_empty() {
        has += ", ffmpeg";
    }
    if *allows_scripts {
        has += "; allows scripts";
    }
    if !tags.is_empty() {
        has += &format!("; tags {}", tags.join(", "));
    }
    (node.name.to_string(), format!("has {has}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::{Blender, Incarnation};

    fn view(name: &str, blenders: Vec<Blender>, state: NodeState) -> NodeView {
        let description = NodeDescription { blenders, ..NodeDescription::default() };
        NodeView::new(name.into(), Incarnation(1), String::new(), description, state, 0)
    }

    #[test]
    fn the_reason_for_waiting_quotes_a_blender_that_does_not_start() {
        let requirements = Requirements::of_file("3.4".parse().unwrap());
        let with = |name: &str, version: &str, unusable: &str| {
            let version = version.parse().ok();
            let blender = Blender { version, unusable: unusable.into(), ..Blender::default() };
            view(name, vec![blender], NodeState::Idle)
        };
        let nodes =
            [with("a", "3.4.1", "Fatal"), with("b", "2.93.0", ""), with("c", "", "no answer")];
        let unable = why_none_is_able(&nodes.iter().collect::<Vec<_>>(), &requirements);
        assert_eq!(
            unable,
            "no node can render it now: on a: Blender 3.4.1 does not start: Fatal; on c: no answer"
        );
        assert_eq!(why_none_is_able(&[&nodes[1]], &requirements), "");
    }

    #[test]
    fn nodes_without_work_are_named_unless_one_draws_the_job() {
        use NodeState::{Draining, Idle, Paused, Quarantined, Silent};
        let node = |name: &str, state| view(name, Vec::new(), state);
        let at_work = HashSet::from(["b".into(), "f".into()]);
        let reason =
            |nodes: &[NodeView]| why_none_is_available(&nodes.iter().collect::<Vec<_>>(), &at_work);
        let (a, b) = (node("a", Quarantined), node("b", Silent));
        let none = "no suitable node is available: ";
        assert_eq!(reason(&[a.clone(), b.clone()]), format!("{none}a is quarantined, b is silent"));
        let many = [a.clone(), b, node("c", Paused), node("d", Paused)];
        let named = format!("{none}a is quarantined, b is silent, c is paused and 1 more");
        assert_eq!(reason(&many), named);
        for proceeds in [node("e", Idle), node("f", Draining)] {
            assert_eq!(reason(&[a.clone(), proceeds]), "");
        }
        let other_job = [a, node("g", Draining)];
        assert_eq!(reason(&other_job), format!("{none}a is quarantined, g is draining"));
    }
}
