//! Process chaos: a cluster of processes under faults F1 to F22, and a checker that finds nothing lost.
//!
//! `cargo test -p framecrew --test chaos` runs for less than a minute with a fixed seed. By hand:
//!
//! ```text
//! FRAMECREW_CHAOS_MINUTES=10 FRAMECREW_CHAOS_SEED=7 cargo test -p framecrew --test chaos -- soak
//! FRAMECREW_CHAOS_TIMES=1000 cargo test -p framecrew --test chaos -- kills
//! ```
//!
//! `soak` makes all faults; `kills` kills the orchestrator over and over; `poison` has a frame that kills nodes;
//! `recovery` kills an orchestrator with 100,000 frames in its store (`_TIMES` again). Other settings: `FRAMECREW_CHAOS_NODES`
//! and `_BLENDERS` (nodes with a synthetic renderer, and with a real Blender), `_FRAME_MS` (time of a synthetic
//! frame), `_RATE` (faults in a minute), `_FAULTS` (the only ones to make, by number or name: `F1,OrchestratorKilled`),
//! `_PROGRAMS` (folder of the servers' programs, to try a release build; the orchestrator's with its feature `history`),
//! `_KEEP` (keep the logs).
//!
//! Each node reaches the orchestrator, and is reached, by a proxy that cuts, holds, delays and throttles; so do
//! clients. Data folders are small file systems where this user may mount some, which root may: without that no
//! disk is full. Wall clocks jump by a preloaded library where there is a C compiler. F16 (duplicates, replays)
//! no proxy can make: the simulation does.
//!
//! The history (what clients were told, faults, findings) and the report go to `target/chaos/`. What the orchestrator
//! decided it writes itself, commit by commit; in the end that is replayed to the checker of the simulation.
#![cfg_attr(not(unix), allow(missing_docs))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[cfg(unix)]
mod check;
#[cfg(unix)]
mod disk;
#[cfg(unix)]
mod faults;
#[cfg(unix)]
mod history;
#[cfg(unix)]
mod load;
#[cfg(unix)]
mod modes;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod proxy;
#[cfg(unix)]
mod report;
#[cfg(unix)]
mod settings;
#[cfg(unix)]
mod world;

/// What the test harness calls the run that is made without being asked.
const SMOKE: &str = "a_cluster_survives_half_a_minute_of_faults";

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        println!("{SMOKE}: test");
        return std::process::ExitCode::SUCCESS;
    }
    #[cfg(unix)]
    if let Some(mode) = asked(&args) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        // More is going on in a test than its main thread has stack for.
        let findings = runtime.block_on(async { tokio::spawn(modes::run(mode)).await.unwrap() });
        if findings > 0 {
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}

/// What is asked for: a mode by its name, or the smoke, which filters of the usual harness may leave out.
#[cfg(unix)]
fn asked(args: &[String]) -> Option<modes::Mode> {
    let mut skips = args.iter().zip(args.iter().skip(1)).filter(|(flag, _)| *flag == "--skip");
    if skips.any(|(_, name)| SMOKE.contains(name.as_str())) {
        return None;
    }
    let mut names = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    if let Some(mode) = names.clone().find_map(|name| modes::Mode::named(name)) {
        return Some(mode);
    }
    (names.peek().is_none() || names.any(|name| SMOKE.contains(name.as_str())))
        .then_some(modes::Mode::Smoke)
}

/// A Blender to draw with, the oldest: it starts fastest.
#[cfg(unix)]
fn blender() -> Option<std::path::PathBuf> {
    let found = framecrew_node::blender::find(&[], &framecrew_node::blender::default_cache());
    found.into_iter().last().map(|blender| blender.path)
}
