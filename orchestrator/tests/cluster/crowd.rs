//! Many watchers, slow ones, and what they are told when there is no room or no orchestrator any more.

use std::{collections::BTreeSet, time::Duration};

use framecrew_blobs::{BlobClient, Digest};
use framecrew_orchestrator::{Config, StreamLimits};
use framecrew_proto::v1::{
    Frame, FrameState, JobState, NodeDescription, RegisterNodeRequest, UploadChunk, UploadHeader,
    UploadRequest, WatchClusterRequest, WatchJobRequest, WatchJobResponse,
    blob_store_client::BlobStoreClient, orchestrator_client::OrchestratorClient,
    upload_request::Part, watch_job_response::Update,
};
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::ScriptedNode,
};

/// Less than the first message of a watch.
const NARROW_BYTES: u32 = 200;

fn request(job_id: u64, after_revision: u64) -> WatchJobRequest {
    WatchJobRequest { job_id, after_revision, store_id: String::new() }
}

async fn next(stream: &mut Streaming<WatchJobResponse>) -> WatchJobResponse {
    patience(stream.message()).await.unwrap().unwrap()
}

/// Reads a stream that is to end with an error, up to that.
async fn end<T>(stream: &mut Streaming<T>) -> Status {
    loop {
        match patience(stream.message()).await {
            Ok(message) => assert!(message.is_some(), "it has not ended well"),
            Err(status) => return status,
        }
    }
}

fn assert_says_when_to_come_back(status: &Status) {
    let retry = status.get_details_retry_info().unwrap();
    assert!(retry.retry_delay.unwrap() > Duration::ZERO);
}

#[tokio::test]
async fn a_watcher_that_stalls_is_dropped_and_makes_room_and_one_that_waits_is_not() {
    let data = tempdir().unwrap();
    let stall = Duration::from_millis(200);
    let streams = StreamLimits { per_client: 2, stall, ..StreamLimits::default() };
    let config = Config { streams, ..Config::new(data.path().to_owned()) };
    let orchestrator = Orchestrator::start_with(config).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 10).await;
    let png = orchestrator.upload(b"1").await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = node.batch().await;
    let mut client = orchestrator.client().await;
    let mut healthy = client.watch_job(request(job_id, 0)).await.unwrap().into_inner();
    let first = next(&mut healthy).await;
    let mut narrow = orchestrator.narrow_client(NARROW_BYTES).await;
    let mut stalled = narrow.watch_job(request(job_id, 0)).await.unwrap().into_inner();
    let status = client.watch_cluster(WatchClusterRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, "STREAMS");
    assert!(status.message().starts_with("2 streams are open from 127.0.0.1"), "{status}");
    assert_says_when_to_come_back(&status);

    // There is room again although the stalled one holds its end open.
    batch.start(1);
    let mut shown = 0.0;
    while client.watch_cluster(WatchClusterRequest {}).await.is_err() {
        // Something is there for it.
        shown += 0.0001;
        batch.progress(1, shown);
        next(&mut healthy).await;
    }
    assert_eq!(end(&mut stalled).await.code(), Code::Cancelled);
    batch.finish(1, png);
    batch.end();
    loop {
        let message = next(&mut healthy).await;
        let Some(Update::Changes(changes)) = &message.update else { panic!("{message:?}") };
        if changes.frames.iter().any(|frame| frame.state() == FrameState::Finished) {
            assert!(message.revision > first.revision);
            break;
        }
    }
}

#[tokio::test]
async fn a_watcher_that_was_dropped_misses_nothing_when_it_comes_again() {
    let data = tempdir().unwrap();
    let stall = Duration::from_millis(100);
    let streams = StreamLimits { per_client: 1, stall, ..StreamLimits::default() };
    let config = Config { streams, ..Config::new(data.path().to_owned()) };
    let orchestrator = Orchestrator::start_with(config).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 20).await;
    let png = orchestrator.upload(b"1").await;
    let job_id = orchestrator.submit(spec).await;
    // Room for the first message, not for what follows.
    let mut narrow = orchestrator.narrow_client(1_000).await;
    let mut stream = narrow.watch_job(request(job_id, 0)).await.unwrap().into_inner();
    let mut seen = next(&mut stream).await.revision;
    let mut finished = 0;
    while finished < 20 {
        let (request, mut batch) = node.batch().await;
        for slice in request.slices {
            batch.start(slice.frame);
            batch.finish(slice.frame, png);
            finished += 1;
        }
        batch.end();
    }
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    // Its place is free again.
    let mut client = orchestrator.client().await;
    patience(async {
        while client.watch_cluster(WatchClusterRequest {}).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut frames = BTreeSet::new();
    let mut drops = 0;
    loop {
        match patience(stream.message()).await {
            Ok(Some(message)) => {
                seen = message.revision;
                match message.update.unwrap() {
                    Update::Changes(changes) => {
                        let is_new = |frame: &Frame| frame.state() == FrameState::Finished;
                        let new = changes.frames.into_iter().filter(is_new);
                        frames.extend(new.map(|frame| frame.frame));
                    }
                    Update::Ended(_) => break,
                    Update::Snapshot(_) => panic!("it has the whole already"),
                }
            }
            Ok(None) => panic!("it ended without its end"),
            Err(status) => {
                assert_eq!(status.code(), Code::Cancelled, "{status}");
                drops += 1;
                let mut client = orchestrator.client().await;
                stream = client.watch_job(request(job_id, seen)).await.unwrap().into_inner();
            }
        }
    }
    assert!(drops > 0, "it was never dropped");
    assert_eq!(frames.len(), 20);
}

#[tokio::test]
async fn watchers_of_an_orchestrator_that_stops_are_told_where_to_go_on() {
    let data = tempdir().unwrap();
    let mut orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let mut client = orchestrator.client().await;
    let mut of_job = client.watch_job(request(job_id, 0)).await.unwrap().into_inner();
    let seen = next(&mut of_job).await.revision;
    let watching = client.watch_cluster(WatchClusterRequest {}).await.unwrap();
    let mut of_cluster = watching.into_inner();
    orchestrator.stop();
    let status = end(&mut of_job).await;
    assert_eq!(status.code(), Code::Unavailable);
    let words = format!("watch again from revision {seen} when it is back");
    assert!(status.message().ends_with(&words), "{status}");
    assert_says_when_to_come_back(&status);
    let status = end(&mut of_cluster).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_says_when_to_come_back(&status);
    orchestrator.stopped().await;

    let orchestrator = Orchestrator::start(data.path()).await;
    let mut client = orchestrator.client().await;
    let mut of_job = client.watch_job(request(job_id, seen)).await.unwrap().into_inner();
    let message = next(&mut of_job).await;
    let Some(Update::Changes(changes)) = message.update else { panic!("{message:?}") };
    assert_eq!(changes.job.unwrap().state(), JobState::Queued);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn however_many_uploads_people_have_under_way_what_a_node_has_finished_goes_through() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let node = orchestrator.channel_from([127, 0, 0, 2].into()).await;
    let description = NodeDescription { slots: 1, ..NodeDescription::default() };
    let registration = RegisterNodeRequest {
        name: "a".to_owned(),
        incarnation: 1,
        port: 9,
        description: Some(description),
        ..RegisterNodeRequest::default()
    };
    OrchestratorClient::new(node.clone()).register_node(registration).await.unwrap();
    let people = orchestrator.channel().await;
    let mut under_way = Vec::new();
    // More than there are turns.
    for n in 0..100 {
        let (sender, parts) = mpsc::channel(1);
        let mut people = BlobStoreClient::new(people.clone());
        tokio::spawn(async move { people.upload(ReceiverStream::new(parts)).await });
        let digest = Digest::of(format!("{n}").as_bytes()).to_string();
        let header = Part::Header(UploadHeader { digest, size_bytes: 1 << 20 });
        let chunk = Part::Chunk(UploadChunk { offset: 0, data: vec![0].into() });
        // The second one fits when the first is on its way.
        for part in [header, chunk] {
            sender.send(UploadRequest { part: Some(part) }).await.unwrap();
        }
        under_way.push(sender);
    }
    let frame = b"frame";
    let node = BlobClient::new(node);
    patience(node.upload_bytes(frame[..].into(), Digest::of(frame))).await.unwrap();
}
