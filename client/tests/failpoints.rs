//! An orchestrator that dies at named points around its commits, as by `kill -9`, again and again under load: before
//! the transaction, inside it, after it, and between telling watchers and giving work away. Whatever it had
//! acknowledged is there afterwards, drawn once, and each store that it leaves behind is sound.
//!
//! `FRAMECREW_DEATHS` is how often it dies at each point (8), `FRAMECREW_SEED` which of its commits it dies at.
#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt as _, process::Command};

use fastrand::Rng;
use framecrew::{Cluster, JobSpec, JobView, proto::JobState};
use rustix::process::Signal;
use support::{
    number,
    servers::{self, Crew, FinishedFrame, assert_as_good_as_afresh, finished_frames, watched},
};
use tokio_util::sync::CancellationToken;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");
const POINTS: [&str; 4] = ["commit-before", "commit-inside", "commit-after", "publish-after"];
/// Commits that it survives at most before it dies: fewer than it makes in a second of this load.
const COMMITS_MAX: u64 = 24;
const CLIENTS: usize = 3;

/// What a client was told of a job.
struct Told {
    job: u64,
    view: JobView,
    finished: BTreeSet<FinishedFrame>,
}

/// Submits one job after another, and watches each to its end, until the test closes.
async fn client(cluster: Cluster, closing: CancellationToken, mut rng: Rng) -> Vec<Told> {
    let mut all = Vec::new();
    while !closing.is_cancelled() {
        let first = rng.i32(0..1_000);
        let spec = JobSpec::animation(DEMO).frames(first..=first + rng.i32(5..40));
        let job = cluster.submit(spec).await.unwrap();
        let mut finished = BTreeSet::new();
        let view = watched(job.watch(), |frame| {
            let number = frame.0;
            finished.insert(frame);
            let times = finished.iter().filter(|frame| frame.0 == number).count();
            assert_eq!(times, 1, "frame {number} is finished once and for all: {finished:?}");
        })
        .await;
        all.push(Told { job: job.id(), view, finished });
    }
    all
}

/// Asks the program itself whether a store is sound.
fn assert_sound(program: &std::path::Path, crew: &Crew, when: &str) {
    let mut check = Command::new(program);
    let check = check.args(["check", "--blobs", "--data"]).arg(&crew.data).output().unwrap();
    assert!(check.status.success(), "{when}: {check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_each_point_around_a_commit_loses_nothing_that_was_acknowledged() {
    let (deaths, seed) = (number("FRAMECREW_DEATHS", 8), number("FRAMECREW_SEED", 1));
    let mut rng = Rng::with_seed(seed);
    let built = servers::build(&["--features", "framecrew-orchestrator/failpoints"]);
    // A copy: who builds it next may do so without the feature.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("framecrew-orchestrator");
    fs::copy(built.join("framecrew-orchestrator"), &program).unwrap();

    let mut points = POINTS.repeat(usize::try_from(deaths).unwrap());
    rng.shuffle(&mut points);
    let mut dies = |point: &str| format!("{point}={}*off->return", rng.u64(1..=COMMITS_MAX));
    let mut command = Command::new(&program);
    command.env("FAILPOINTS", dies(points[0]));
    let mut crew = Crew::start(command, &["a", "b"], &["--renderer", "synthetic:5ms"]);
    let closing = CancellationToken::new();
    let mut clients = Vec::new();
    for n in 0..CLIENTS as u64 {
        // Each connects by and by: the first life may be short.
        let (url, closing) = (crew.url.clone(), closing.clone());
        clients.push(tokio::spawn(async move {
            let cluster = servers::connect(&url).await;
            client(cluster, closing, Rng::with_seed(seed + n)).await
        }));
    }
    for (death, point) in points.iter().enumerate() {
        let status = crew.orchestrator.ended().await;
        let log = crew.orchestrator.log();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "seed {seed}, {point}: {log}");
        let when = format!("seed {seed}, death {death} at {point}");
        // Every other time the next life is the first to see what was left behind.
        if death % 2 == 0 {
            assert_sound(&program, &crew, &when);
        }
        match points.get(death + 1) {
            Some(next) => crew.orchestrator.command.env("FAILPOINTS", dies(next)),
            None => crew.orchestrator.command.env_remove("FAILPOINTS"),
        };
        crew.orchestrator.restart();
        if death % 2 == 1 {
            assert_sound(&program, &crew, &when);
        }
    }
    closing.cancel();
    let mut told = Vec::new();
    for client in clients {
        told.extend(client.await.unwrap());
    }

    let cluster = crew.cluster().await;
    let jobs: BTreeSet<u64> =
        cluster.jobs(usize::MAX).await.unwrap().iter().map(|job| job.job_id).collect();
    assert_eq!(jobs, told.iter().map(|told| told.job).collect(), "what was acknowledged is there");
    let mut frames = 0;
    for Told { job, view, finished } in &told {
        assert_eq!(view.state(), JobState::Finished, "seed {seed}, job {job}: {view:?}");
        assert_eq!(view.troubled().count(), 0, "no death costs a try: seed {seed}, job {job}");
        let now = finished_frames(&cluster, *job).await;
        assert_eq!(now.len() as u64, view.counts().finished);
        assert!(now.iter().collect::<BTreeSet<_>>().is_superset(&finished.iter().collect()));
        assert_as_good_as_afresh(&cluster, *job, view).await;
        frames += now.len();
    }
    let drawn = crew.told("frame begun", ["job", "frame"]);
    assert_eq!(drawn.len(), frames);
    let twice: Vec<_> = drawn.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "seed {seed}: no death has a frame drawn again: {twice:?}");
    assert_sound(&program, &crew, "in the end");
    println!("{} deaths, {} jobs, {frames} frames", points.len(), told.len());
}
