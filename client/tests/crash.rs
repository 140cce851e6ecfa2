//! Real processes, most with a real Blender in each node; `kill -9`, SIGTERM, damage and a backup. Nothing that was
//! acknowledged is lost, nothing is drawn twice that need not be, and who watched through it all ends equal to one who
//! joins afresh.
#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, fs, path::Path, process::Output};

use framecrew::{
    Job, JobSpec, JobView, WatchEvent,
    proto::{ActiveSlice, FrameState, JobState},
};
use framecrew_node::blender::FoundBlender;
use futures::StreamExt as _;
use support::{
    blenders,
    servers::{Crew, PATIENCE, assert_as_good_as_afresh, finished_frames, orchestrator, watched},
};
use tokio::time::timeout;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");
const FRAMES: i32 = 24;

/// An orchestrator and three nodes with a real Blender each.
fn crew(blender: &FoundBlender) -> Crew {
    Crew::start(orchestrator(), &["a", "b", "c"], &["--blender", blender.path.to_str().unwrap()])
}

/// Renders; `meanwhile` is what the test does to the crew while the job is watched from its beginning to its end.
async fn render(crew: &mut Crew, meanwhile: impl Fn(&mut Crew, &JobView)) -> JobView {
    let cluster = crew.cluster().await;
    let spec = JobSpec::animation(DEMO).frames(1..=FRAMES).scale_percent(30).samples(4);
    let job = cluster.submit(spec).await.unwrap();
    let mut watch = job.watch();
    let mut view = JobView::default();
    let watching = async {
        while let Some(event) = watch.next().await {
            if let WatchEvent::Update(update) = event.unwrap() {
                view.apply(&update);
                meanwhile(crew, &view);
            }
        }
    };
    timeout(PATIENCE, watching).await.unwrap();

    assert_eq!(view.state(), JobState::Finished);
    let all = [(1, FRAMES, FrameState::Finished)];
    assert_eq!(view.runs().collect::<Vec<_>>(), all);
    assert_as_good_as_afresh(&crew.cluster().await, job.id(), &view).await;

    let out = crew.folder.path().join("frames");
    crew.cluster().await.fetch(job.id(), &out).await.unwrap();
    let mut pictures = std::collections::HashSet::new();
    for number in 1..=FRAMES {
        let picture = image::open(out.join(format!("framecrew-{number:04}.png"))).unwrap();
        assert_eq!(picture.width(), 144, "30 % of 480");
        pictures.insert(picture.into_bytes());
    }
    assert_eq!(pictures.len(), FRAMES as usize, "every frame differs");
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_killed_in_mid_job_goes_on_and_nothing_is_drawn_twice() {
    let Some(blender) = blenders().pop() else { return };
    let mut crew = crew(&blender);
    let killed = std::cell::Cell::new(false);
    let view = render(&mut crew, |crew, view| {
        if view.counts().finished >= 5 && view.active().count() > 0 && !killed.replace(true) {
            crew.orchestrator.kill();
            crew.orchestrator.restart();
        }
    })
    .await;
    assert!(killed.get());
    assert_eq!(view.troubled().count(), 0, "no try failed");
    let drawn = crew.told("frame drawn", ["frame"]);
    assert_eq!(drawn.len(), FRAMES as usize);
    assert!(drawn.values().all(|times| *times == 1), "each frame was drawn once: {drawn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_mid_frame_costs_at_most_one_more_render_a_slot() {
    let Some(blender) = blenders().pop() else { return };
    let mut crew = crew(&blender);
    let killed = std::cell::Cell::new(None);
    let view = render(&mut crew, |crew, view| {
        let at_work = |active: &&ActiveSlice| active.node == "b";
        let Some(active) = view.active().find(at_work) else { return };
        if view.counts().finished >= 5 && killed.get().is_none() {
            killed.set(active.slice.map(|slice| slice.frame));
            crew.nodes[1].kill();
            crew.nodes[1].restart();
        }
    })
    .await;
    assert!(killed.get().is_some());
    // The tries that failed, and what the killed node had drawn but not yet told.
    let tries: u32 = view.troubled().map(|frame| frame.failed_attempts).sum();
    assert!(tries <= 1, "one slot lost one frame: {:?}", view.troubled().collect::<Vec<_>>());
    let drawn = crew.told("frame drawn", ["frame"]);
    assert_eq!(drawn.len(), FRAMES as usize);
    let times: u32 = drawn.values().sum();
    assert!(times <= FRAMES as u32 + 1, "at most one extra render: {drawn:?}");
}

/// An orchestrator and two nodes that draw small pictures, with a job of so many frames.
async fn synthetic_crew(frames: i32) -> (Crew, Job) {
    let crew = Crew::start(orchestrator(), &["a", "b"], &["--renderer", "synthetic:20ms"]);
    let spec = JobSpec::animation(DEMO).frames(1..=frames);
    let job = crew.cluster().await.submit(spec).await.unwrap();
    (crew, job)
}

/// Runs the orchestrator's program to its end.
fn run(args: &[&str], data: &Path) -> (Output, String) {
    let output = orchestrator().args(args).arg("--data").arg(data).output().unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (output, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_that_is_told_to_stop_ends_by_itself_and_each_frame_is_drawn_once() {
    const FRAMES: i32 = 120;
    let (mut crew, job) = synthetic_crew(FRAMES).await;
    let (mut watch, mut view, mut broken) = (job.watch(), JobView::default(), Vec::new());
    let mut is_stopped = false;
    let watching = async {
        while let Some(event) = watch.next().await {
            match event.unwrap() {
                WatchEvent::Update(update) => view.apply(&update),
                WatchEvent::Reconnecting { reason, .. } => broken.push(reason),
                WatchEvent::StartingOver { reason } => panic!("the watch starts over: {reason}"),
            }
            if view.counts().finished >= 20 && view.active().count() > 0 && !is_stopped {
                is_stopped = true;
                crew.orchestrator.terminate();
                let status = crew.orchestrator.ended().await;
                assert_eq!(status.code(), Some(0), "{}", crew.orchestrator.log());
                crew.orchestrator.restart();
            }
        }
    };
    timeout(PATIENCE, watching).await.unwrap();
    assert_eq!(view.runs().collect::<Vec<_>>(), [(1, FRAMES, FrameState::Finished)]);
    assert!(
        broken[0].contains("watch again from revision"),
        "watchers are told where to go on: {broken:?}"
    );
    assert_as_good_as_afresh(&crew.cluster().await, job.id(), &view).await;
    assert_eq!(view.troubled().count(), 0, "no try failed");
    let drawn = crew.told("frame begun", ["frame"]);
    assert_eq!(drawn.len(), FRAMES as usize);
    assert!(drawn.values().all(|times| *times == 1), "each frame was drawn once: {drawn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_refused_with_the_way_out_and_stays_as_it_is() {
    let (mut crew, job) = synthetic_crew(30).await;
    watched(job.watch(), drop).await;
    crew.orchestrator.terminate();
    crew.orchestrator.ended().await;
    // Without its log, and with a page in the middle that is none.
    let database = crew.data.join("framecrew.db");
    let (checkpointed, said) = run(&["check"], &crew.data);
    assert!(checkpointed.status.success(), "{said}");
    let mut bytes = fs::read(&database).unwrap();
    let page = bytes.len() / 4_096 / 2 * 4_096;
    bytes[page..page + 4_096].fill(0xa5);
    fs::write(&database, &bytes).unwrap();
    let files = || -> BTreeMap<_, _> {
        let entries = fs::read_dir(&crew.data).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            // An empty log and its index are there or not, as the database was last closed.
            .filter(|(path, bytes)| {
                let name = path.to_string_lossy();
                !(name.ends_with("-shm") || name.ends_with("-wal") && bytes.is_empty())
            })
            .collect()
    };
    let before = files();

    let (refused, said) = run(&["--listen", "127.0.0.1:0"], &crew.data);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for word in ["damaged", "framecrew-orchestrator check", "framecrew-orchestrator backup"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(files() == before, "nothing was changed");
    let (checked, _) = run(&["check"], &crew.data);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    let told = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(told.contains(" page "), "where it is damaged: {told}");
    assert!(!told.contains("framecrew-orchestrator check"), "it sends nobody to itself: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_while_frames_are_drawn_is_sound_and_is_gone_on_from() {
    const FRAMES: i32 = 120;
    let (mut crew, job) = synthetic_crew(FRAMES).await;
    let copy = crew.folder.path().join("copy");
    let mut watch = job.watch();
    let mut view = JobView::default();
    let reached = async {
        while view.counts().finished < 20 {
            if let WatchEvent::Update(update) = watch.next().await.unwrap().unwrap() {
                view.apply(&update);
            }
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
    let before = finished_frames(&crew.cluster().await, job.id()).await;
    let (copied, said) = run(&["backup", copy.to_str().unwrap()], &crew.data);
    assert!(copied.status.success(), "{said}");
    let (checked, said) = run(&["check", "--blobs"], &copy);
    assert!(checked.status.success(), "{checked:?} {said}");

    // The store is lost; its copy goes on, and what was finished before it was made is not drawn again.
    crew.orchestrator.kill();
    fs::remove_dir_all(&crew.data).unwrap();
    fs::rename(&copy, &crew.data).unwrap();
    crew.orchestrator.restart();
    let view = watched(crew.cluster().await.watch(job.id()), drop).await;
    assert_eq!(view.runs().collect::<Vec<_>>(), [(1, FRAMES, FrameState::Finished)]);
    let after = finished_frames(&crew.cluster().await, job.id()).await;
    assert!(before.iter().all(|frame| after.contains(frame)));
}
