//! Nodes come, stay, go, and are told apart.

use std::time::Duration;

use framecrew_orchestrator::Config;
use framecrew_proto::v1::{
    FailureReason, HeartbeatRequest, JobState, ListNodesRequest, NodeState, RegisterNodeRequest,
    UnregisterNodeRequest, WatchJobRequest, watch_job_response::Update,
};
use tempfile::tempdir;
use tonic::Code;

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::{Asked, ScriptedNode},
};

fn heartbeat(node: &ScriptedNode, incarnation: u64, batch_ids: Vec<u64>) -> HeartbeatRequest {
    let name = node.name.clone();
    HeartbeatRequest { name, incarnation, batch_ids, ..HeartbeatRequest::default() }
}

#[tokio::test]
async fn an_older_incarnation_is_turned_away() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let node = ScriptedNode::join(&orchestrator, "a").await;
    let mut client = orchestrator.client().await;
    client.register_node(node.registration(2)).await.unwrap();
    let status = client.heartbeat(heartbeat(&node, 1, vec![])).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    let status = client.register_node(node.registration(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    client.heartbeat(heartbeat(&node, 2, vec![])).await.unwrap();
}

#[tokio::test]
async fn a_name_held_by_a_live_node_elsewhere_is_taken() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let node = ScriptedNode::join(&orchestrator, "a").await;
    let mut other = node.registration(9);
    other.address = "http://127.0.0.1:1".to_owned();
    let status = orchestrator.client().await.register_node(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_stranger_is_told_to_register_and_a_faulty_registration_what_is_wrong() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let node = ScriptedNode::join(&orchestrator, "a").await;
    let mut client = orchestrator.client().await;
    let mut stranger = heartbeat(&node, 1, vec![]);
    stranger.name = "b".to_owned();
    assert_eq!(client.heartbeat(stranger).await.unwrap_err().code(), Code::NotFound);
    let mut faulty = node.registration(0);
    faulty.name.clear();
    faulty.description = None;
    faulty.address = "no url at all".to_owned();
    let status = client.register_node(faulty).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = tonic_types::StatusExt::get_details_bad_request(&status).unwrap();
    assert_eq!(details.field_violations.len(), 4, "{details:?}");
}

#[tokio::test]
async fn a_node_of_another_store_is_told_to_register_although_its_name_and_incarnation_are_known() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let node = ScriptedNode::join(&orchestrator, "a").await;
    let mut client = orchestrator.client().await;
    let elsewhere =
        HeartbeatRequest { store_id: "another".to_owned(), ..heartbeat(&node, 1, vec![]) };
    let status = client.heartbeat(elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let welcome = client.register_node(node.registration(1)).await.unwrap().into_inner();
    let here = HeartbeatRequest { store_id: welcome.store_id, ..heartbeat(&node, 1, vec![]) };
    client.heartbeat(here).await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_names_the_batches_to_abandon() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    orchestrator.submit(spec).await;
    let (request, _batch) = node.batch().await;
    let held = vec![request.batch_id, request.batch_id + 1_000];
    let answer = orchestrator.client().await.heartbeat(heartbeat(&node, 1, held)).await.unwrap();
    assert_eq!(answer.into_inner().abandon_batch_ids, [request.batch_id + 1_000]);
}

#[tokio::test]
async fn a_node_that_says_goodbye_hands_its_frames_to_another_at_once() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut a = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut lost) = a.batch().await;
    lost.start(1);
    let mut b = ScriptedNode::join(&orchestrator, "b").await;
    let goodbye = UnregisterNodeRequest { name: "a".to_owned(), incarnation: 1 };
    orchestrator.client().await.unregister_node(goodbye).await.unwrap();
    let (request, mut batch) = b.batch().await;
    assert_eq!(request.slices[0].frame, 1);
    let png = orchestrator.upload(b"1").await;
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    let job = orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert_eq!(job.counts.unwrap().finished, 1);
    assert_eq!(orchestrator.frames(job_id).await[0].failed_attempts, 0, "a goodbye is no failure");
    let nodes = orchestrator.client().await.list_nodes(ListNodesRequest {}).await.unwrap();
    let states: Vec<_> = nodes.into_inner().nodes.iter().map(|node| node.state()).collect();
    assert_eq!(states, [NodeState::Left, NodeState::Idle]);
}

#[tokio::test]
async fn a_silent_node_loses_its_frames_when_its_lease_is_over() {
    let data = tempdir().unwrap();
    let mut config = Config::new(data.path().to_owned());
    config.lease = Duration::from_millis(200);
    let orchestrator = Orchestrator::start_with(config).await;
    let mut a = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = a.batch().await;
    batch.start(1);
    let mut client = orchestrator.client().await;
    let mut first = async || {
        let nodes = client.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
        nodes.into_iter().next().unwrap()
    };
    let seen_at_ms = patience(async {
        loop {
            let node = first().await;
            if node.state() != NodeState::Idle {
                break node.seen_at_ms;
            }
        }
    })
    .await;
    orchestrator.until(job_id, |job| job.waiting_reason == "no node is registered").await;
    assert_eq!((first().await.state(), first().await.seen_at_ms), (NodeState::Lost, seen_at_ms));
    let frame = &orchestrator.frames(job_id).await[0];
    assert_eq!(frame.failed_attempts, 1);
    assert_eq!(frame.failure.as_ref().unwrap().reason(), FailureReason::NodeLost);
    // What it says now comes too late.
    let png = orchestrator.upload(b"1").await;
    batch.finish(1, png);
    let mut b = ScriptedNode::join(&orchestrator, "b").await;
    let (_, mut batch) = b.batch().await;
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    let job = orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert_eq!(job.counts.unwrap().finished, 1);
    assert_eq!(orchestrator.frames(job_id).await[0].node, "b");
}

#[tokio::test]
async fn a_job_tells_which_nodes_it_waits_for_when_all_that_could_render_it_rest() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let node = ScriptedNode::join(&orchestrator, "a").await;
    let mut client = orchestrator.client().await;
    let leaving = HeartbeatRequest { draining: true, ..heartbeat(&node, 1, vec![]) };
    client.heartbeat(leaving.clone()).await.unwrap();
    let job_id = orchestrator.submit(orchestrator.spec(1, 1).await).await;
    patience(async {
        while orchestrator.job(job_id).await.waiting_reason
            != "no suitable node is available: a is draining"
        {
            client.heartbeat(leaving.clone()).await.unwrap();
        }
    })
    .await;
    // Who watches is told as well, though nothing of the job changes.
    let request = WatchJobRequest { job_id, ..WatchJobRequest::default() };
    let mut watch = client.watch_job(request).await.unwrap().into_inner();
    let goodbye = UnregisterNodeRequest { name: "a".to_owned(), incarnation: 1 };
    let first = patience(watch.message()).await.unwrap().unwrap();
    client.unregister_node(goodbye).await.unwrap();
    let told = patience(async {
        loop {
            let message = watch.message().await.unwrap().unwrap();
            if let Some(Update::Changes(changes)) = message.update {
                break (message.revision, changes.job.unwrap().waiting_reason);
            }
        }
    })
    .await;
    assert_eq!(told, (first.revision, "no node is registered".to_owned()));
    let _able = ScriptedNode::join(&orchestrator, "b").await;
    orchestrator.until(job_id, |job| job.waiting_reason.is_empty()).await;
}

#[tokio::test]
async fn a_broken_stream_is_attached_to_again_where_it_broke() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (request, mut batch) = node.batch().await;
    batch.start(1);
    drop(batch);
    let Asked::Attach(attach, batch) = node.asked().await else { panic!("not an attach") };
    assert_eq!(attach.batch_id, request.batch_id);
    let mut batch = batch.after(1);
    batch.finish(1, png);
    batch.end();
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
}

#[tokio::test]
async fn a_finished_frame_whose_output_is_not_stored_does_not_count() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = node.batch().await;
    batch.start(1);
    batch.finish(1, framecrew_blobs::Digest::of(b"never uploaded"));
    batch.end();
    // The frame is given out again, and nothing was committed.
    let (_, _batch) = node.batch().await;
    let job = orchestrator.job(job_id).await;
    assert_eq!(job.counts.unwrap().finished, 0);
    let frame = &orchestrator.frames(job_id).await[0];
    assert_eq!(frame.failure.as_ref().unwrap().reason(), FailureReason::Infrastructure);
}

#[tokio::test]
async fn an_output_that_the_store_cut_short_is_never_committed_and_heals() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let name = png.to_string();
    let stored = data.path().join("blobs").join(&name[..2]).join(&name[2..]);
    std::fs::write(stored, b"").unwrap();
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = node.batch().await;
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    let (_, mut batch) = node.batch().await;
    assert_eq!(orchestrator.job(job_id).await.counts.unwrap().finished, 0);
    let failure = orchestrator.frames(job_id).await.remove(0).failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::Infrastructure);
    assert_eq!(failure.message, "output 0001.png is damaged in the blob store");
    orchestrator.upload(b"1").await;
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
}

#[tokio::test]
async fn cancelling_a_job_cancels_its_batches_and_frees_the_node() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec.clone()).await;
    let (request, mut batch) = node.batch().await;
    batch.start(1);
    let cancel = framecrew_proto::v1::CancelJobRequest { job_id };
    orchestrator.client().await.cancel_job(cancel).await.unwrap();
    let Asked::Cancel(cancelled) = node.asked().await else { panic!("not a cancel") };
    assert_eq!(cancelled, request.batch_id);
    batch.finish(1, png);
    let next = orchestrator.submit(spec).await;
    let (request, _batch) = node.batch().await;
    assert_eq!(request.job_id, next, "the node is free for the next job");
    let frame = &orchestrator.frames(job_id).await[0];
    assert!(frame.outputs.is_empty(), "nothing is committed after a cancel");
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_keeps_no_frame_from_one_that_can() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut good = ScriptedNode::join(&orchestrator, "good").await;
    let mut unreachable = good.registration(1);
    unreachable.name = "bad".to_owned();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    unreachable.address = format!("http://{closed}");
    orchestrator.client().await.register_node(unreachable).await.unwrap();
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 2).await;
    let job_id = orchestrator.submit(spec).await;
    for _ in 0..2 {
        let (request, mut batch) = good.batch().await;
        for slice in request.slices {
            batch.start(slice.frame);
            batch.finish(slice.frame, png);
        }
        batch.end();
    }
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert!(orchestrator.frames(job_id).await.iter().all(|frame| frame.failed_attempts == 0));
}

#[tokio::test]
async fn an_event_that_makes_no_sense_wedges_nothing() {
    use framecrew_proto::v1::{LogLine, LogLines, batch_event::Event};
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = node.batch().await;
    batch.start(1);
    let line = LogLine { text: "ü".repeat(5_000), ..LogLine::default() };
    batch.say(Event::Log(LogLines { lines: vec![line.clone()], dropped: u64::MAX }));
    batch.say(Event::Log(LogLines { lines: vec![line], dropped: u64::MAX }));
    batch.say(Event::Finished(framecrew_proto::v1::SliceFinished::default()));
    batch.finish_in(1, png, f64::NAN);
    batch.end();
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert_eq!(orchestrator.frames(job_id).await[0].render_seconds, 0.0);
}

#[tokio::test]
async fn a_node_that_is_heard_of_and_cannot_be_reached_is_asked_to_register_again() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let mut client = orchestrator.client().await;
    // Nobody listens on port 1 here.
    let address = "http://127.0.0.1:1".to_owned();
    let elsewhere = RegisterNodeRequest { address, ..node.registration(1) };
    client.register_node(elsewhere).await.unwrap();
    let png = orchestrator.upload(b"1").await;
    let job_id = orchestrator.submit(orchestrator.spec(1, 1).await).await;
    let said = patience(async {
        loop {
            match client.heartbeat(heartbeat(&node, 1, vec![])).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(status) => break status,
            }
        }
    })
    .await;
    assert_eq!(said.code(), Code::NotFound);
    assert!(said.message().contains("http://127.0.0.1:1 cannot be reached"), "{said:?}");
    client.register_node(node.registration(1)).await.unwrap();
    client.heartbeat(heartbeat(&node, 1, vec![])).await.unwrap();
    let (request, mut batch) = node.batch().await;
    assert_eq!(request.node, "a");
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert_eq!(orchestrator.frames(job_id).await[0].failed_attempts, 0);
}
