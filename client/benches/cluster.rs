//! How fast a cluster is: `cargo bench -p framecrew [-- throughput] [-- overhead]`.
//!
//! `throughput` (P3): frames per second through submit, schedule, dispatch, stream, durable commit and one
//! watcher, on three nodes whose renderer takes no time and whose outputs are one shared blob.
//!
//! `overhead` (P1): short frames on one node with all cores, from submit to the last file on the disk, over
//! what one can do by hand: `blender --background -a` in one process, and a process for each frame. The two
//! are run in turn; ratios are of medians. Needs a Blender executable.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use framecrew::{Cluster, JobSpec, LocalCluster, LocalConfig, WatchEvent, proto};
use framecrew_node::{RendererChoice, blender};
use futures::StreamExt as _;
use tempfile::tempdir;

/// The scene of `framecrew demo`.
const SCENE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");
/// Frames of a throughput run; the cost of one must not grow with their number.
const MANY: [i32; 2] = [10_000, 100_000];
/// Short frames of an overhead run.
const FEW: i32 = 40;
/// Resolution percentage and samples that make them short.
const SCALE: u32 = 25;
const SAMPLES: u32 = 4;
/// Runs of each side of an overhead comparison.
const RUNS: usize = 3;

#[tokio::main]
async fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |name: &str| asked.is_empty() || asked.iter().any(|arg| arg == name);
    if wants("throughput") {
        throughput().await;
    }
    if wants("overhead") {
        overhead().await;
    }
}

async fn throughput() {
    println!("\nthroughput: three nodes, a renderer that takes no time, one watcher, durable");
    println!("{:>10} {:>10} {:>12} {:>14}", "frames", "seconds", "frames/s", "us a frame");
    for frames in MANY {
        let data = tempdir().unwrap();
        let renderer = RendererChoice::Synthetic(Duration::ZERO);
        let local = LocalCluster::start(LocalConfig::new(3, data.path(), renderer)).await.unwrap();
        let spec = JobSpec::animation(SCENE).frames(1..=frames);
        let started = now();
        watch(local.cluster(), spec).await;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{frames:>10} {seconds:>10.2} {:>12.0} {:>14.1}",
            f64::from(frames) / seconds,
            seconds * 1e6 / f64::from(frames)
        );
        local.shutdown().await;
    }
}

/// Submits, and watches every frame to the end.
async fn watch(cluster: &Cluster, spec: JobSpec) {
    let job = cluster.submit(spec).await.unwrap();
    let mut watch = job.watch();
    while let Some(event) = watch.next().await {
        if let WatchEvent::Update(update) = event.unwrap()
            && let Some(proto::watch_job_response::Update::Ended(ended)) = update.update
        {
            let job = ended.job.unwrap();
            assert_eq!(job.state(), proto::JobState::Finished);
        }
    }
}

async fn overhead() {
    let cache = tempdir().unwrap();
    let executable = blender::find(&[], cache.path())
        .into_iter()
        .find(|found| found.kind == blender::Kind::Executable);
    let Some(executable) = executable else {
        println!("\noverhead: skipped: there is no Blender executable on this machine");
        return;
    };
    let (mut by_hand, mut cold, mut warm, mut each) = (vec![], vec![], vec![], vec![]);
    for _ in 0..RUNS {
        by_hand.push(all_by_hand(&executable.path));
        let data = tempdir().unwrap();
        let renderer = RendererChoice::Blender(vec![executable.clone()]);
        let local = LocalCluster::start(LocalConfig::new(1, data.path(), renderer)).await.unwrap();
        for times in [&mut cold, &mut warm] {
            let (url, out) = (local.url().to_owned(), tempdir().unwrap());
            let taken = tokio::task::spawn_blocking(move || render(&url, out.path()));
            times.push(taken.await.unwrap());
        }
        local.shutdown().await;
        each.push(one_process_per_frame(&executable.path));
    }
    let hand = median(&mut by_hand);
    println!("\noverhead: {FEW} short frames, one node, all cores, Blender {}", executable.version);
    println!("{:<48} {:>8} {:>8}", "", "seconds", "ratio");
    for (what, seconds) in [
        ("blender --background -a", hand),
        ("framecrew, first job", median(&mut cold)),
        ("framecrew, second job on the warm scene", median(&mut warm)),
        ("one process for each frame", median(&mut each)),
    ] {
        println!("{what:<48} {seconds:>8.2} {:>8.2}", seconds / hand);
    }
}

/// What a person would type.
fn render(url: &str, out: &Path) -> f64 {
    let started = now();
    let status = Command::new(env!("CARGO_BIN_EXE_framecrew"))
        .args(["render", SCENE, "--cluster", url, "--frames", &format!("1-{FEW}")])
        .args(["--scale", &SCALE.to_string(), "--samples", &SAMPLES.to_string()])
        .args(["--denoise", "off", "--output"])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert!(status.success());
    assert_eq!(std::fs::read_dir(out).unwrap().count(), FEW as usize);
    seconds
}

fn blender_command(blender: &Path, out: &Path) -> Command {
    let settings = format!(
        "import bpy; s = bpy.context.scene; s.render.resolution_percentage = {SCALE}; \
         s.cycles.samples = {SAMPLES}; s.cycles.use_denoising = False"
    );
    let mut command = Command::new(blender);
    command
        .args(["--background", "--factory-startup", "--disable-autoexec", SCENE])
        .args(["--python-expr", &settings, "--render-output"])
        .arg(out.join("####"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn all_by_hand(blender: &Path) -> f64 {
    let out = tempdir().unwrap();
    let started = now();
    let last = FEW.to_string();
    let status = blender_command(blender, out.path())
        .args(["--frame-start", "1", "--frame-end", &last, "--render-anim"])
        .status()
        .unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert!(status.success());
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), FEW as usize);
    seconds
}

fn one_process_per_frame(blender: &Path) -> f64 {
    let out = tempdir().unwrap();
    let started = now();
    for frame in 1..=FEW {
        let status = blender_command(blender, out.path())
            .args(["--render-frame", &frame.to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }
    started.elapsed().as_secs_f64()
}

/// A benchmark reads the clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
