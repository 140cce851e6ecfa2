//! What a run came to, for people and for programs.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    check::{Replay, Sum},
    settings::Settings,
    world::World,
};

/// Writes the report beside the history and prints it. Gives back how much was found that must not be.
pub(crate) fn write(mode: &str, world: &World, settings: &Settings, sum: &Sum, to: &Path) -> usize {
    let (counts, findings) = (world.history.counts(), world.history.findings());
    let is_fault = |name: &str| name.starts_with('F') && name[1..2].parse::<u8>().is_ok();
    let faults: u64 =
        counts.iter().filter(|(name, _)| is_fault(name)).map(|(_, count)| count).sum();
    let finished: u64 = sum.finished.values().sum();
    let extra = if finished > 0 { sum.extra as f64 / finished as f64 } else { 0.0 };
    let mut times = world.history.times();
    let times: Vec<_> = times
        .iter_mut()
        .map(|(name, times)| {
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share).ceil() as usize];
            (name.clone(), times.len(), at(0.5), at(0.99), at(1.0))
        })
        .collect();

    let replayed = match &sum.replayed {
        Some(Replay { actions, commits, lives, dropped, bytes }) => format!(
            "history replayed: {actions} actions, {commits} commits ({dropped} more never durable), \
             {lives} lives of the orchestrator, {} MiB",
            bytes >> 20
        ),
        None => "history not replayed".to_owned(),
    };
    let mut text = vec![
        format!("{mode}, seed {}, {:.0} s", settings.seed, world.history.elapsed().as_secs_f64()),
        format!("faults: {faults}"),
        format!(
            "jobs: {}, submissions nobody answered: {}",
            sum.jobs,
            world.ledger.unanswered.load(std::sync::atomic::Ordering::Relaxed)
        ),
        format!(
            "frames: {:?} finished, {} failed, {} cancelled",
            sum.finished, sum.failed, sum.cancelled
        ),
        format!("renders begun: {}, extra: {} ({:.2} %)", sum.begun, sum.extra, extra * 100.0),
        format!("orchestrator memory at most: {} MiB", world.ledger.memory_bytes() >> 20),
        replayed,
    ];
    text.extend(counts.iter().map(|(name, count)| format!("  {count:>7}  {name}")));
    for (name, number, median, late, last) in &times {
        text.push(format!(
            "  {name}: p50 {median:.3} s, p99 {late:.3} s, most {last:.3} s ({number})"
        ));
    }
    text.push(format!("findings: {}", findings.len()));
    text.extend(findings.iter().map(|finding| format!("  {finding}")));
    let text = text.join("\n");
    println!("{text}");

    let value = json!({
        "mode": mode,
        "seed": settings.seed,
        "seconds": world.history.elapsed().as_secs_f64(),
        "faults": faults,
        "jobs": sum.jobs,
        "finished": sum.finished,
        "failed": sum.failed,
        "cancelled": sum.cancelled,
        "renders_begun": sum.begun,
        "renders_extra": sum.extra,
        "orchestrator_memory_bytes": world.ledger.memory_bytes(),
        "replayed": sum.replayed.as_ref().map(|replay| json!({
            "actions": replay.actions, "commits": replay.commits, "dropped": replay.dropped,
            "lives": replay.lives, "bytes": replay.bytes
        })),
        "counts": counts,
        "times": times.iter().map(|(name, number, median, late, last)| json!({
            "what": name, "times": number, "p50": median, "p99": late, "most": last
        })).collect::<Vec<_>>(),
        "findings": findings,
    });
    let name = format!("{mode}-{}", settings.seed);
    fs::write(to.join(format!("{name}.txt")), text + "\n").unwrap();
    fs::write(to.join(format!("{name}.json")), format!("{value:#}\n")).unwrap();
    findings.len()
}
