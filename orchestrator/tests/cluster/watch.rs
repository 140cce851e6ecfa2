//! Watchers get everything, then what changed, and resume where they were.

use framecrew_proto::v1::{
    FailureReason, FrameState, JobState, ReadLogRequest, WatchClusterRequest, WatchJobRequest,
    WatchJobResponse, watch_job_response::Update,
};
use tempfile::tempdir;
use tonic::{Code, Streaming};

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::{Batch, ScriptedNode},
};

async fn watch(
    orchestrator: &Orchestrator,
    job_id: u64,
    after_revision: u64,
) -> Streaming<WatchJobResponse> {
    let request = WatchJobRequest { job_id, after_revision, store_id: String::new() };
    orchestrator.client().await.watch_job(request).await.unwrap().into_inner()
}

/// The state of each frame, as a watcher folds it, in the order of their numbers.
#[derive(Debug, Default, PartialEq)]
struct Folded {
    frames: std::collections::BTreeMap<i32, i32>,
    state: i32,
}

impl Folded {
    fn fold(&mut self, message: &WatchJobResponse) {
        let job = match message.update.as_ref().unwrap() {
            Update::Snapshot(snapshot) => {
                self.frames.clear();
                for run in &snapshot.runs {
                    let range = run.frames.unwrap();
                    for frame in (range.first..=range.last).step_by(range.step as usize) {
                        self.frames.insert(frame, run.state);
                    }
                }
                &snapshot.job
            }
            Update::Changes(changes) => {
                for frame in &changes.frames {
                    self.frames.insert(frame.frame, frame.state);
                }
                &changes.job
            }
            Update::Ended(ended) => &ended.job,
        };
        self.state = job.as_ref().unwrap().state;
    }
}

async fn next(stream: &mut Streaming<WatchJobResponse>) -> WatchJobResponse {
    patience(stream.message()).await.unwrap().unwrap()
}

/// Reads until a message is as wanted.
async fn until(
    stream: &mut Streaming<WatchJobResponse>,
    folded: &mut Folded,
    wanted: impl Fn(&WatchJobResponse) -> bool,
) -> WatchJobResponse {
    loop {
        let message = next(stream).await;
        folded.fold(&message);
        if wanted(&message) {
            return message;
        }
    }
}

fn changes_frame(message: &WatchJobResponse, number: i32) -> bool {
    match message.update.as_ref().unwrap() {
        Update::Changes(changes) => changes.frames.iter().any(|frame| frame.frame == number),
        _ => false,
    }
}

/// A node at work on a job of ten frames: the batches come one by one, as their time is unknown.
async fn ten_frames(orchestrator: &Orchestrator) -> (u64, ScriptedNode, Batch) {
    let mut node = ScriptedNode::join(orchestrator, "a").await;
    let spec = orchestrator.spec(1, 10).await;
    let job_id = orchestrator.submit(spec).await;
    let (request, batch) = node.batch().await;
    assert_eq!(request.slices[0].frame, 1);
    (job_id, node, batch)
}

#[tokio::test]
async fn a_watcher_sees_progress_then_the_finished_frame_then_the_end() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let mut stream = watch(&orchestrator, job_id, 0).await;
    let first = next(&mut stream).await;
    assert!(matches!(first.update, Some(Update::Snapshot(_))), "{first:?}");
    let png = orchestrator.upload(b"1").await;
    let (_, mut batch) = node.batch().await;
    batch.start(1);
    batch.progress(1, 0.5);
    let mut folded = Folded::default();
    folded.fold(&first);
    until(&mut stream, &mut folded, |message| match message.update.as_ref().unwrap() {
        Update::Changes(changes) => changes
            .active
            .iter()
            .any(|active| active.node == "a" && active.progress.unwrap().fraction == Some(0.5)),
        _ => false,
    })
    .await;
    batch.finish(1, png);
    batch.end();
    let finished = until(&mut stream, &mut folded, |message| changes_frame(message, 1)).await;
    let Some(Update::Changes(changes)) = finished.update else { unreachable!() };
    assert_eq!(changes.frames[0].outputs[0].name, "0001.png");
    assert_eq!(changes.frames[0].node, "a");
    until(&mut stream, &mut folded, |message| matches!(message.update, Some(Update::Ended(_))))
        .await;
    assert_eq!(patience(stream.message()).await.unwrap(), None, "nothing follows the end");
    assert_eq!(folded.state, JobState::Finished as i32);
}

#[tokio::test]
async fn a_watcher_that_resumes_ends_equal_to_one_that_joins_afresh() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let (job_id, mut node, mut batch) = ten_frames(&orchestrator).await;
    let png = orchestrator.upload(b"1").await;
    let mut resumed = Folded::default();
    let mut stream = watch(&orchestrator, job_id, 0).await;
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    let seen = until(&mut stream, &mut resumed, |message| changes_frame(message, 1)).await;
    drop(stream);
    // While it is away: one frame fails for good, one finishes.
    let mut failed = 0;
    for number in 2..=3 {
        let (request, mut batch) = node.batch().await;
        let frame = request.slices[0].frame;
        batch.start(frame);
        if number == 2 {
            batch.fail(frame, FailureReason::Permanent);
            failed = frame;
        } else {
            batch.finish(frame, png);
        }
        batch.end();
    }
    orchestrator.until(job_id, |job| job.counts.unwrap().open == 7).await;
    let mut stream = watch(&orchestrator, job_id, seen.revision).await;
    until(&mut stream, &mut resumed, |message| message.revision > seen.revision).await;
    let mut afresh = Folded::default();
    let snapshot = next(&mut watch(&orchestrator, job_id, 0).await).await;
    afresh.fold(&snapshot);
    assert_eq!(resumed, afresh);
    assert_eq!(afresh.frames[&failed], FrameState::Failed as i32);
    let Some(Update::Snapshot(snapshot)) = snapshot.update else { unreachable!() };
    let failure = snapshot.troubled[0].failure.as_ref().unwrap();
    assert_eq!(failure.log_tail, ["the last line"]);
}

#[tokio::test]
async fn a_revision_from_the_future_or_of_another_store_is_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    for (after_revision, store_id) in [(1_000, ""), (1, "another")] {
        let request = WatchJobRequest { job_id, after_revision, store_id: store_id.to_owned() };
        let status = orchestrator.client().await.watch_job(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
    }
    let request = WatchJobRequest { job_id: 99, ..WatchJobRequest::default() };
    let status = orchestrator.client().await.watch_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_watcher_of_a_job_that_is_over_gets_it_whole_and_then_its_end() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let (job_id, _node, mut batch) = ten_frames(&orchestrator).await;
    batch.start(1);
    let cancel = framecrew_proto::v1::CancelJobRequest { job_id };
    orchestrator.client().await.cancel_job(cancel).await.unwrap();
    let mut stream = watch(&orchestrator, job_id, 0).await;
    let mut folded = Folded::default();
    until(&mut stream, &mut folded, |message| matches!(message.update, Some(Update::Ended(_))))
        .await;
    assert_eq!(folded.state, JobState::Cancelled as i32);
    assert!(folded.frames.values().all(|state| *state == FrameState::Cancelled as i32));
}

#[tokio::test]
async fn a_cluster_watcher_sees_nodes_and_jobs_come() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut client = orchestrator.client().await;
    let mut stream = client.watch_cluster(WatchClusterRequest {}).await.unwrap().into_inner();
    let first = patience(stream.message()).await.unwrap().unwrap();
    assert!(first.jobs.is_empty() && first.nodes.is_empty());
    let (job_id, _node, _batch) = ten_frames(&orchestrator).await;
    let (mut seen_job, mut seen_node) = (false, false);
    while !(seen_job && seen_node) {
        let message = patience(stream.message()).await.unwrap().unwrap();
        seen_job |= message.jobs.iter().any(|job| job.job_id == job_id);
        seen_node |= message.nodes.iter().any(|node| node.name == "a");
    }
}

#[tokio::test]
async fn log_lines_are_kept_and_lost_ones_counted() {
    use framecrew_proto::v1::{LogLine, LogLines, batch_event::Event};
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let png = orchestrator.upload(b"1").await;
    let (_, mut batch) = node.batch().await;
    let line = |text: &str| LogLine { frame: Some(1), text: text.to_owned(), ..LogLine::default() };
    batch.start(1);
    batch.say(Event::Log(LogLines { lines: vec![line("one"), line("two")], dropped: 0 }));
    batch.say(Event::Log(LogLines { lines: vec![line("three")], dropped: 5 }));
    let mut client = orchestrator.client().await;
    let request = ReadLogRequest { job_id, frame: None, follow: true };
    let mut stream = client.read_log(request).await.unwrap().into_inner();
    let (mut lines, mut dropped) = (Vec::new(), 0);
    while lines.len() < 3 {
        let message = patience(stream.message()).await.unwrap().unwrap();
        lines.extend(message.lines.into_iter().map(|line| line.text));
        dropped += message.dropped;
    }
    assert_eq!((lines, dropped), (vec!["one".to_owned(), "two".to_owned(), "three".to_owned()], 5));
    batch.finish(1, png);
    batch.end();
    assert!(patience(stream.message()).await.unwrap().is_none(), "the log ends with the job");
}
