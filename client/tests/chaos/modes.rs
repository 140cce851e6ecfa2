//! The kinds of runs.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use framecrew::proto::FrameRange;
use tokio::time::sleep;

use crate::{
    check::{self, Sum},
    faults,
    load::{self, POISON},
    report,
    settings::Settings,
    world::{Kind, World},
};

/// Jobs that are open at a time.
const SYNTHETIC_JOBS: u64 = 4;
const BLENDER_JOBS: u64 = 2;
/// Frames in the store that an orchestrator opens.
const STORED_FRAMES: i32 = 100_000;
/// The verdict on a poisoned frame takes a minute at most, and the other frames about as long.
const POISON_TIMEOUT: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(10);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A little of everything, without being asked.
    Smoke,
    /// All faults for as long as one likes.
    Soak,
    /// The orchestrator is killed over and over.
    Kills,
    /// One frame of a job kills every node that draws it.
    Poison,
    /// An orchestrator with many frames in its store is killed over and over.
    Recovery,
}

impl Mode {
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Self::Smoke, Self::Soak, Self::Kills, Self::Poison, Self::Recovery];
        all.into_iter().find(|mode| mode.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Soak => "soak",
            Self::Kills => "kills",
            Self::Poison => "poison",
            Self::Recovery => "recovery",
        }
    }
}

/// Does it, and gives back how much was found that must not be.
pub(crate) async fn run(mode: Mode) -> usize {
    let settings = match mode {
        Mode::Smoke => Settings::smoke(),
        Mode::Soak => Settings::from_environment(0),
        Mode::Kills => Settings { blenders: 0, ..Settings::from_environment(1_000) },
        Mode::Poison => Settings { blenders: 0, synthetic: 4, ..Settings::from_environment(0) },
        Mode::Recovery => Settings {
            blenders: 0,
            synthetic: 3,
            frame: Duration::ZERO,
            ..Settings::from_environment(50)
        },
    };
    let folder = output_folder();
    std::fs::create_dir_all(&folder).unwrap();
    println!("{} with seed {}", mode.name(), settings.seed);
    let history = folder.join(format!("{}-{}.history.jsonl", mode.name(), settings.seed));
    let world = World::start(&settings, &history).await;
    let mut rng = Rng::with_seed(settings.seed);
    let has_blender = world.nodes.iter().any(|node| node.kind == Kind::Blender);
    if !matches!(mode, Mode::Poison | Mode::Recovery) {
        tokio::spawn(load::submit_all(world.clone(), Kind::Synthetic, SYNTHETIC_JOBS, rng.u64(..)));
    }
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
        Mode::Poison => poison(&world, &mut rng).await,
        Mode::Recovery => recovery(&world, settings.times, &mut rng).await,
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
        check::told(world).await;
    }
}

/// One frame in a job of a hundred kills every node that draws it; a supervisor starts them again.
async fn poison(world: &Arc<World>, rng: &mut Rng) {
    assert!(world.nodes.iter().all(|node| node.can_do_wrong()), "the nodes know no poison");
    let range = |first, last| FrameRange { first, last, step: 1 };
    let frames = vec![range(1, 36), range(POISON, POISON), range(38, 100)];
    let begun = Instant::now();
    let job = submit_job(world, frames, rng).await;
    while !world.ledger.is_over(job) {
        if begun.elapsed() > POISON_TIMEOUT {
            world.history.finding("I14: a job of a hundred with a poisoned frame does not end");
            load::cancel(world.clone(), job, 0, Duration::ZERO).await;
            return;
        }
        sleep(POLL).await;
    }
    world.history.took("a job of a hundred with a poisoned frame is over", begun.elapsed());
}

/// Fills the store, then kills the orchestrator over and over while another job is rendered.
async fn recovery(world: &Arc<World>, times: u32, rng: &mut Rng) {
    let frames = |last| vec![FrameRange { first: 1, last, step: 1 }];
    let begun = Instant::now();
    let job = submit_job(world, frames(STORED_FRAMES), rng).await;
    while !world.ledger.is_over(job) {
        sleep(POLL).await;
    }
    world.history.took("the store is filled", begun.elapsed());
    let mut job = submit_job(world, frames(STORED_FRAMES), rng).await;
    for _ in 0..times {
        if world.ledger.is_over(job) {
            job = submit_job(world, frames(STORED_FRAMES), rng).await;
        }
        while world.ledger.committed(job) == 0 {
            sleep(POLL).await;
        }
        sleep(Duration::from_millis(rng.u64(500..1_500))).await;
        world.history.count("F10 orchestrator killed");
        faults::kill_orchestrator(world, Duration::ZERO).await;
        let (served, before) = (Instant::now(), world.ledger.committed(job));
        while world.ledger.committed(job) <= before && !world.ledger.is_over(job) {
            sleep(POLL).await;
        }
        world.history.took("an orchestrator that serves again commits a frame", served.elapsed());
    }
    check::told(world).await;
    load::cancel(world.clone(), job, 0, Duration::ZERO).await;
}

async fn submit_job(world: &Arc<World>, frames: Vec<FrameRange>, rng: &mut Rng) -> u64 {
    let job = load::job_of(Kind::Synthetic, frames);
    load::submit(world, Kind::Synthetic, job, rng).await.expect("the world is open")
}

async fn finish(
    mode: Mode,
    world: &Arc<World>,
    settings: &Settings,
    sum: &mut Sum,
    folder: &std::path::Path,
) -> usize {
    check::end(world).await;
    check::decided(world, sum);
    check::logs(world, sum);
    if matches!(mode, Mode::Kills | Mode::Recovery) && sum.extra > 0 {
        world.history.finding(format!(
            "I21: {} frames were drawn again although only the orchestrator was killed",
            sum.extra
        ));
    }
    if matches!(mode, Mode::Kills | Mode::Recovery) && sum.late > 0 {
        world.history.finding(format!(
            "I20: {} times an orchestrator took more than {:?} to have every live batch",
            sum.late,
            check::ATTACH_TIMEOUT
        ));
    }
    let findings = report::write(mode.name(), world, settings, sum, folder);
    if findings > 0 || std::env::var_os("FRAMECREW_CHAOS_KEEP").is_some() {
        let kept = folder.join(format!("{}-{}.logs", mode.name(), settings.seed));
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
