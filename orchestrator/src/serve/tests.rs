#![allow(clippy::unwrap_used)]

use std::time::Instant;

use framecrew_blobs::Digest;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;
use crate::{
    domain::{
        Attempts, BatchId, Frame, FrameCounts, FrameRange, FrameSet, FrameState, Incarnation,
        JobId, JobSpec, JobState, NodeDescription, Output, Project, RenderSettings, Rendered,
        Slice, TimeLimits,
    },
    store::{BatchRecord, Group, JobRecord, NodeRecord, Request},
};

/// Fills a store with a job of `frames` frames, half of them finished and some with a node, and `closed` jobs
/// of one frame that are over.
async fn fill(data: &std::path::Path, frames: i32, closed: u64) {
    std::fs::create_dir_all(data).unwrap();
    let (store, _) = SqliteStore::open(&data.join("framecrew.db")).await.unwrap();
    let job = |id: u64, frames: i32| {
        let spec = JobSpec {
            name: "shot".to_owned(),
            project: Project { blend_path: String::new(), files: Vec::new() },
            frames: FrameSet::new(vec![FrameRange { first: 1, last: frames, step: 1 }]).unwrap(),
            settings: RenderSettings::default(),
            priority: 0,
            tags: Vec::new(),
            strict: false,
            movie: None,
            movie_of: None,
            limits: TimeLimits::default(),
        };
        let request = Request { request_id: format!("r{id}"), fingerprint: "f".to_owned() };
        (request, JobRecord::submitted(JobId(id), Arc::new(spec), "3.4.1".parse().unwrap(), 1))
    };
    let finished = |frame: i32, revision: u64| Frame {
        frame,
        state: FrameState::Finished,
        revision,
        attempts: Attempts::default(),
        rendered: Some(Rendered {
            outputs: vec![Output {
                name: format!("{frame:06}.png"),
                digest: Digest::of(&frame.to_le_bytes()),
                size_bytes: 1 << 20,
                width: 1_920,
                height: 1_080,
                channels: 4,
            }],
            render_seconds: 1.0,
            peak_memory_bytes: 1 << 30,
            preview: None,
        }),
        failure: None,
        node: Some("a".into()),
    };
    let mut group = Group::default();
    let (request, mut record) = job(1, frames);
    let half = frames / 2;
    record.standing.state = JobState::Rendering;
    record.standing.revision = 1 + half as u64;
    record.standing.counts =
        FrameCounts { open: (frames - half) as u64, finished: half as u64, ..Default::default() };
    group.new_jobs.push((request, record));
    for frame in 1..=half {
        let row = Arc::new(finished(frame, 1 + frame as u64));
        group.frames.insert((JobId(1), Slice::whole(frame)), row);
    }
    let node = NodeRecord {
        incarnation: Incarnation(1),
        address: "http://127.0.0.1:9".to_owned(),
        description: NodeDescription { slots: 1, ..NodeDescription::default() },
    };
    group.nodes.insert("a".into(), Some(node));
    let slices = (half + 1..=frames.min(half + 100)).map(Slice::whole).collect();
    let batch = BatchRecord { job: JobId(1), node: "a".into(), slices, log_sequence: 0 };
    group.started_batches.insert(BatchId(1 << 32), batch);
    for id in 2..2 + closed {
        let (request, mut record) = job(id, 1);
        record.standing.state = JobState::Finished;
        record.standing.revision = 2;
        record.standing.counts = FrameCounts { finished: 1, ..Default::default() };
        group.new_jobs.push((request, record));
        group.frames.insert((JobId(id), Slice::whole(1)), Arc::new(finished(1, 2)));
    }
    let began = Instant::now();
    store.commit(&group).await.unwrap();
    println!("filled in {:?}", began.elapsed());
    store.close().await;
}

/// Starts an orchestrator and waits until it says that it serves; how long that took.
async fn start(data: &std::path::Path) -> (Duration, AbortOnDropHandle<Result<(), ServeError>>) {
    let began = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(serve(listener, Config::new(data.into()), std::future::pending()));
    let serving = AbortOnDropHandle::new(serving);
    tokio::task::yield_now().await;
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    while !health
        .check(HealthCheckRequest::default())
        .await
        .is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    {
        assert!(!serving.is_finished(), "the orchestrator ended");
    }
    (began.elapsed(), serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_hundred_thousand_frames_is_served_again() {
    for (frames, closed) in [(100_000, 0), (100, 20_000)] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), frames, closed).await;
        let size = std::fs::metadata(dir.path().join("framecrew.db")).unwrap().len();
        let (took, _serving) = start(dir.path()).await;
        println!("{frames} frames, {closed} jobs that are over, {size} bytes: {took:?} to serve");
    }
}
