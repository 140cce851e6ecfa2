//! The kinds of runs.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::time::sleep;

use crate::{
    check::{self, Sum},
    faults, load, report,
    settings::Settings,
    world::{Kind, World},
};

/// Jobs that are open at a time.
const SYNTHETIC_JOBS: u64 = 4;
const BLENDER_JOBS: u64 = 2;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A little of everything, without being asked.
    Smoke,
    /// All faults for as long as one likes.
    Soak,
    /// The orchestrator is killed over and over.
    Kills,
}

impl Mode {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Smoke, Self::Soak, Self::Kills].into_iter().find(|mode| mode.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Soak => "soak",
            Self::Kills => "kills",
        }
    }
}

/// Does it, and gives back how much was found that must not be.
pub(crate) async fn run(mode: Mode) -> usize {
    let settings = match mode {
        Mode::Smoke => Settings::smoke(),
        Mode::Soak => Settings::from_environment(0),
        Mode::Kills => Settings { blenders: 0, ..Settings::from_environment(1_000) },
    };
    let folder = output_folder();
    std::fs::create_dir_all(&folder).unwrap();
    println!("{} with seed {}", mode.name(), settings.seed);
    let history = folder.join(format!("{}.history.jsonl", mode.name()));
    let world = World::start(&settings, &history).await;
    let mut rng = Rng::with_seed(settings.seed);
    let has_blender = world.nodes.iter().any(|node| node.kind == Kind::Blender);
    tokio::spawn(load::submit_all(world.clone(), Kind::Synthetic, SYNTHETIC_JOBS, rng.u64(..)));
    if has_blender {
        tokio::spawn(load::submit_all(world.clone(), Kind::Blender, BLENDER_JOBS, rng.u64(..)));
    }
    match mode {
        Mode::Smoke => {
            make(&world, &settings, &mut rng).await;
            kills(&world, settings.times, &mut rng).await;
        }
        Mode::Soak => make(&world, &settings, &mut rng).await,
        Mode::Kills => kills(&world, settings.times, &mut rng).await,
    }
    world.closing.cancel();
    check::ends(&world).await;
    let mut sum = check::jobs(&world).await;
    finish(mode, &world, &settings, &mut sum, &folder).await
}

async fn make(world: &Arc<World>, settings: &Settings, rng: &mut Rng) {
    let end = Instant::now() + settings.duration;
    faults::make(world, end, rng.fork(), settings.rate, &settings.only, settings.brief).await;
}

/// Kills the orchestrator so many times, at random moments under load.
async fn kills(world: &Arc<World>, times: u32, rng: &mut Rng) {
    for _ in 0..times {
        sleep(Duration::from_millis(rng.u64(0..1_500))).await;
        world.history.count("F10 orchestrator killed");
        faults::kill_orchestrator(world, Duration::ZERO).await;
    }
}

async fn finish(
    mode: Mode,
    world: &Arc<World>,
    settings: &Settings,
    sum: &mut Sum,
    folder: &std::path::Path,
) -> usize {
    check::end(world).await;
    check::logs(world, sum);
    let findings = report::write(mode.name(), world, settings, sum, folder);
    if findings > 0 || std::env::var_os("FRAMECREW_CHAOS_KEEP").is_some() {
        let kept = folder.join(format!("{}.logs", mode.name()));
        let _ = std::fs::remove_dir_all(&kept);
        std::fs::create_dir_all(&kept).unwrap();
        for entry in std::fs::read_dir(world.folder()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "log" || e == "history") {
                let _ = std::fs::copy(entry.path(), kept.join(entry.file_name()));
            }
        }
        println!("the servers' logs are in {}", kept.display());
    }
    findings
}

/// Where histories and reports go.
fn output_folder() -> PathBuf {
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_framecrew")).parent().unwrap();
    programs.parent().unwrap().join("chaos")
}
