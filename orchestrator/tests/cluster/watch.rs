//! Watchers get everything, then what changed, and resume where they were.

use framecrew_blobs::Digest;
use framecrew_proto::v1::{
    FailureReason, Frame, FrameState, JobState, ListJobsRequest, Output, Preview, ReadLogRequest,
    SliceFinished, Warning, WatchClusterRequest, WatchJobRequest, WatchJobResponse,
    batch_event::Event, watch_job_response::Update,
};
use tempfile::tempdir;
use tonic::{Code, Streaming};

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::{Asked, Batch, ScriptedNode, finished},
};

async fn watch(
    orchestrator: &Orchestrator,
    job_id: u64,
    after_revision: u64,
) -> Streaming<WatchJobResponse> {
    let request = WatchJobRequest { job_id, after_revision, store_id: String::new() };
    orchestrator.client().await.watch_job(request).await.unwrap().into_inner()
}

/// The state of each frame, as a watcher folds it, in the order of their numbers, and what is told of the job.
#[derive(Debug, Default, PartialEq)]
struct Folded {
    frames: std::collections::BTreeMap<i32, i32>,
    state: i32,
    warnings: Vec<Warning>,
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
        let job = job.as_ref().unwrap();
        self.state = job.state;
        self.warnings.clone_from(&job.warnings);
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
    use framecrew_proto::v1::{LogLine, LogLines};
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

#[tokio::test]
async fn a_warning_is_a_change_of_the_job_told_once_and_never_lost() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = node.batch().await;
    let mut stream = watch(&orchestrator, job_id, 0).await;
    let mut resumed = Folded::default();
    let texts = |folded: &Folded| -> Vec<String> {
        folded.warnings.iter().map(|warning| warning.text.clone()).collect()
    };
    batch.start(1);
    batch.warn("tex/wood.png is not there");
    let seen = until(&mut stream, &mut resumed, |message| match message.update.as_ref().unwrap() {
        Update::Changes(changes) => !changes.job.as_ref().unwrap().warnings.is_empty(),
        _ => false,
    })
    .await;
    assert_eq!(texts(&resumed), ["tex/wood.png is not there"]);
    drop(stream);

    // While it is away: the same again, another one with what does not belong in a line, and nothing at all.
    batch.warn("tex/wood.png is not there");
    batch.warn(&format!("two\nlines\u{1b}[31m {}", "é".repeat(400)));
    batch.warn(" \n ");
    let job = orchestrator.until(job_id, |job| job.warnings.len() > 1).await;
    assert_eq!(job.revision, seen.revision + 1);
    orchestrator.kill().await;

    // The node tells all of it again to the next life.
    let orchestrator = Orchestrator::start(data.path()).await;
    let Asked::Attach(_, mut batch) = node.asked().await else { panic!("not an attach") };
    batch.start(1);
    batch.warn("tex/wood.png is not there");
    batch.warn("a third");
    let mut stream = watch(&orchestrator, job_id, seen.revision).await;
    until(&mut stream, &mut resumed, |message| message.revision == seen.revision + 2).await;
    let mut afresh = Folded::default();
    afresh.fold(&next(&mut watch(&orchestrator, job_id, 0).await).await);
    assert_eq!(resumed, afresh);
    let told = texts(&afresh);
    assert_eq!((told.len(), &*told[0], &*told[2]), (3, "tex/wood.png is not there", "a third"));
    assert!(told[1].starts_with("two lines [31m é") && told[1].len() <= 500, "{}", told[1]);
    assert_eq!(orchestrator.job(job_id).await.warnings, afresh.warnings);
    let listed = orchestrator.client().await.list_jobs(ListJobsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().jobs[0].warnings, afresh.warnings);
}

fn preview(data: &'static [u8]) -> Preview {
    Preview {
        digest: Digest::of(data).to_string(),
        size_bytes: data.len() as u64,
        width: 256,
        height: 144,
        data: data.into(),
    }
}

fn changed_frame(message: WatchJobResponse, number: i32) -> Frame {
    let Some(Update::Changes(changes)) = message.update else { panic!("{message:?}") };
    changes.frames.into_iter().find(|frame| frame.frame == number).unwrap()
}

#[tokio::test]
async fn a_preview_comes_with_its_frame_and_is_downloaded_later() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let (job_id, mut node, mut batch) = ten_frames(&orchestrator).await;
    let png = orchestrator.upload(b"1").await;
    orchestrator.upload(b"a small picture").await;
    let mut stream = watch(&orchestrator, job_id, 0).await;
    let mut folded = Folded::default();
    batch.start(1);
    batch.finish_with(1, png, preview(b"a small picture"));
    batch.end();
    let message = until(&mut stream, &mut folded, |message| changes_frame(message, 1)).await;
    let revision = message.revision;
    assert_eq!(changed_frame(message, 1).preview, Some(preview(b"a small picture")));
    let without = Some(Preview { data: Vec::new().into(), ..preview(b"a small picture") });
    assert_eq!(orchestrator.frames(job_id).await[0].preview, without);

    // A preview that is not what it says is left out; the frame is good.
    let bad = [
        Preview { digest: png.to_string(), ..preview(b"a small picture") },
        Preview { width: 257, ..preview(b"a small picture") },
        Preview { size_bytes: 1, ..preview(b"a small picture") },
        preview(b"never uploaded"),
    ];
    for bad in bad {
        let (request, mut batch) = node.batch().await;
        let frame = request.slices[0].frame;
        batch.start(frame);
        batch.finish_with(frame, png, bad);
        batch.end();
        let message = until(&mut stream, &mut folded, |m| changes_frame(m, frame)).await;
        let frame = changed_frame(message, frame);
        assert_eq!((frame.state(), frame.preview), (FrameState::Finished, None));
    }

    // Another life has no bytes at hand, and tells where they are.
    orchestrator.kill().await;
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut stream = watch(&orchestrator, job_id, revision - 1).await;
    let message = until(&mut stream, &mut folded, |message| changes_frame(message, 1)).await;
    assert_eq!(changed_frame(message, 1).preview, without);
}

#[tokio::test]
async fn outputs_that_would_leave_their_folder_fail_the_frame_with_the_reason() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let (job_id, _node, mut batch) = ten_frames(&orchestrator).await;
    let png = orchestrator.upload(b"1").await;
    let mut finished: SliceFinished = finished(1, png);
    finished
        .outputs
        .push(Output { name: "../../up.png".to_owned(), ..finished.outputs[0].clone() });
    batch.start(1);
    batch.say(Event::Finished(finished));
    batch.end();
    orchestrator.until(job_id, |job| job.revision > 2).await;
    let frame = orchestrator.frames(job_id).await.remove(0);
    let failure = frame.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::InvalidOutput);
    assert!(failure.message.contains("../../up.png"), "{}", failure.message);
}

#[tokio::test]
async fn an_output_that_cannot_be_looked_at_fails_its_own_frame_alone() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 100).await;
    let job_id = orchestrator.submit(spec).await;
    // Frames that take no time come many at once.
    let mut before = 0;
    let (frames, mut batch) = loop {
        let (request, mut batch) = node.batch().await;
        let frames: Vec<i32> = request.slices.iter().map(|slice| slice.frame).collect();
        if frames.len() > 1 {
            break (frames, batch);
        }
        batch.start(frames[0]);
        batch.finish_in(frames[0], png, 0.001);
        batch.end();
        before += 1;
    };
    let unreadable = Digest::of(b"out of reach");
    let shard = data.path().join("blobs").join(&unreadable.to_string()[..2]);
    std::fs::remove_dir(&shard).unwrap();
    std::fs::write(&shard, b"").unwrap();
    let outputs = std::iter::once(unreadable).chain(std::iter::repeat(png));
    let done = frames.iter().zip(outputs).map(|(frame, output)| finished(*frame, output));
    batch.say_at_once(done.map(Event::Finished));
    batch.end();
    let good = before + frames.len() as u64 - 1;
    orchestrator.until(job_id, |job| job.counts.unwrap().finished == good).await;
    let told = orchestrator.frames(job_id).await;
    let of = |frame: i32| told.iter().find(|told| told.frame == frame).unwrap();
    let failure = of(frames[0]).failure.as_ref().unwrap();
    assert_eq!(failure.reason(), FailureReason::Infrastructure);
    assert!(failure.message.contains("cannot be looked at"), "{}", failure.message);
    for other in &frames[1..] {
        assert_eq!(of(*other).state(), FrameState::Finished);
    }
}
