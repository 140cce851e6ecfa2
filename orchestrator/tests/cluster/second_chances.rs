//! Failed frames are tried again when somebody says so, and frames that were finished in vain are taken in.

use framecrew_proto::v1::{
    AdoptFramesRequest, Adoption, CancelJobRequest, FailureReason, FrameRange, FrameState, Job,
    JobState, OrphanedFrame, RetryFramesRequest, RetryFramesResponse, UnregisterNodeRequest,
    WatchJobRequest, WatchJobResponse, watch_job_response::Update,
};
use tempfile::tempdir;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::{Asked, Batch, ScriptedNode, finished},
};

async fn retry(
    orchestrator: &Orchestrator,
    job_id: u64,
    frames: Vec<FrameRange>,
) -> Result<RetryFramesResponse, Status> {
    let request = RetryFramesRequest { job_id, frames };
    Ok(orchestrator.client().await.retry_frames(request).await?.into_inner())
}

async fn watch(
    orchestrator: &Orchestrator,
    job_id: u64,
    after: u64,
) -> Streaming<WatchJobResponse> {
    let request = WatchJobRequest { job_id, after_revision: after, store_id: String::new() };
    orchestrator.client().await.watch_job(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchJobResponse>) -> WatchJobResponse {
    patience(stream.message()).await.unwrap().unwrap()
}

/// Reads up to the end of the job: the job then, and the states that a frame was seen in.
async fn until_ended(
    stream: &mut Streaming<WatchJobResponse>,
    frame: i32,
) -> (Job, Vec<FrameState>) {
    let mut seen = Vec::new();
    loop {
        match next(stream).await.update.unwrap() {
            Update::Changes(changes) => {
                let changed = changes.frames.iter().filter(|changed| changed.frame == frame);
                seen.extend(changed.map(|changed| changed.state()));
            }
            Update::Ended(ended) => return (ended.job.unwrap(), seen),
            Update::Snapshot(_) => {}
        }
    }
}

/// Renders frame after frame; frame 2 fails for good.
async fn render(node: &mut ScriptedNode, frames: usize, png: framecrew_blobs::Digest) {
    let mut left = frames;
    while left > 0 {
        let (request, mut batch) = node.batch().await;
        for slice in request.slices {
            batch.start(slice.frame);
            match slice.frame {
                2 => batch.fail(2, FailureReason::Permanent),
                frame => batch.finish(frame, png),
            }
            left -= 1;
        }
        batch.end();
    }
}

#[tokio::test]
async fn failed_frames_are_opened_again_and_the_job_goes_on_under_its_number() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 3).await;
    let project = spec.project.clone().unwrap();
    let job_id = orchestrator.submit(spec).await;
    let mut stream = watch(&orchestrator, job_id, 0).await;
    render(&mut node, 3, png).await;
    let (failed, _) = until_ended(&mut stream, 2).await;
    assert_eq!(failed.state(), JobState::Failed);
    // It was over when this one came, and goes on under its eyes or not at all.
    let mut afterwards = watch(&orchestrator, job_id, failed.revision).await;

    let answer = retry(&orchestrator, job_id, vec![]).await.unwrap();
    let job = answer.job.unwrap();
    assert_eq!((answer.reopened, job.job_id), (1, job_id));
    assert_eq!((job.counts.unwrap().open, job.counts.unwrap().finished), (1, 2));
    assert!(job.revision > failed.revision);
    assert!(!matches!(job.state(), JobState::Failed | JobState::Finished), "{:?}", job.state());
    let mut resumed = watch(&orchestrator, job_id, failed.revision).await;
    let (request, mut batch) = node.batch().await;
    assert_eq!(request.job_id, job_id);
    assert_eq!(request.project, Some(project), "it is sent whole again");
    assert_eq!(request.slices.iter().map(|slice| slice.frame).collect::<Vec<_>>(), [2]);
    batch.start(2);
    batch.finish(2, png);
    batch.end();
    let (ended, seen) = until_ended(&mut resumed, 2).await;
    assert_eq!((ended.state(), ended.counts.unwrap().finished), (JobState::Finished, 3));
    assert_eq!(seen.last(), Some(&FrameState::Finished));
    assert!(!seen.contains(&FrameState::Failed), "{seen:?}");
    // Told of the end as it was, or of all that followed: never of a part.
    let (ended, seen) = until_ended(&mut afterwards, 2).await;
    match ended.state() {
        JobState::Failed => assert!(seen.is_empty(), "{seen:?}"),
        _ => assert_eq!(seen.last(), Some(&FrameState::Finished)),
    }
    let frames = orchestrator.frames(job_id).await;
    assert_eq!(frames[1].failed_attempts, 0, "its budget was fresh");

    let again = retry(&orchestrator, job_id, vec![]).await.unwrap();
    assert_eq!((again.reopened, again.job.unwrap().state()), (0, JobState::Finished));
}

#[tokio::test]
async fn what_was_retried_is_open_after_a_restart_too() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 2).await;
    let job_id = orchestrator.submit(spec).await;
    render(&mut node, 2, png).await;
    let failed = orchestrator.until(job_id, |job| job.state() == JobState::Failed).await;
    let goodbye = UnregisterNodeRequest { name: node.name.clone(), incarnation: 1 };
    orchestrator.client().await.unregister_node(goodbye).await.unwrap();
    drop(node);
    let two = FrameRange { first: 2, last: 2, step: 1 };
    assert_eq!(retry(&orchestrator, job_id, vec![two]).await.unwrap().reopened, 1);
    orchestrator.kill().await;

    let orchestrator = Orchestrator::start(data.path()).await;
    let job = orchestrator.job(job_id).await;
    assert_eq!(job.counts.unwrap().open, 1);
    assert!(job.revision > failed.revision);
    let mut node = ScriptedNode::join(&orchestrator, "b").await;
    let (_, mut batch) = node.batch().await;
    batch.start(2);
    batch.finish(2, png);
    batch.end();
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
}

#[tokio::test]
async fn what_cannot_be_retried_is_said_in_full() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec(1, 10).await;
    let job_id = orchestrator.submit(spec).await;
    assert_eq!(retry(&orchestrator, 99, vec![]).await.unwrap_err().code(), Code::NotFound);
    let range = |first, last, step| FrameRange { first, last, step };
    let faulty = vec![range(5, 4, 1), range(1, 2, 0)];
    let status = retry(&orchestrator, job_id, faulty).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");
    let others = vec![range(9, 11, 1), range(1, 3, 1), range(0, 0, 1)];
    let status = retry(&orchestrator, job_id, others).await.unwrap_err();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|violation| &*violation.field).collect();
    assert_eq!(fields, ["frames[0]", "frames[2]"]);
    assert_eq!(violations[0].description, "the job has no frame 11");
    // Nothing has failed: nothing is done, and that is fine.
    assert_eq!(retry(&orchestrator, job_id, vec![]).await.unwrap().reopened, 0);
    orchestrator.client().await.cancel_job(CancelJobRequest { job_id }).await.unwrap();
    let status = retry(&orchestrator, job_id, vec![]).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

/// Two nodes, the first of which draws frame 1 of 1; and the name of the store.
async fn two_nodes(
    orchestrator: &Orchestrator,
) -> (u64, ScriptedNode, Batch, ScriptedNode, String) {
    let mut a = ScriptedNode::join(orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec).await;
    let (_, mut batch) = a.batch().await;
    batch.start(1);
    let b = ScriptedNode::join(orchestrator, "b").await;
    let again = orchestrator.client().await.register_node(b.registration(1)).await.unwrap();
    (job_id, a, batch, b, again.into_inner().store_id)
}

async fn adopt(
    orchestrator: &Orchestrator,
    node: &ScriptedNode,
    store_id: &str,
    frames: Vec<OrphanedFrame>,
) -> Result<Vec<Adoption>, Status> {
    let request = AdoptFramesRequest {
        name: node.name.clone(),
        incarnation: 1,
        store_id: store_id.to_owned(),
        frames,
    };
    let answer = orchestrator.client().await.adopt_frames(request).await?.into_inner();
    Ok(answer.adoptions().collect())
}

fn orphan(job_id: u64, frame: i32, png: framecrew_blobs::Digest) -> OrphanedFrame {
    OrphanedFrame { job_id, finished: Some(finished(frame, png)) }
}

#[tokio::test]
async fn a_frame_that_another_node_draws_is_taken_from_the_one_that_has_it() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let (job_id, mut a, _batch, b, store_id) = two_nodes(&orchestrator).await;
    let png = framecrew_blobs::Digest::of(b"1");
    let hand_in = || vec![orphan(job_id, 1, png)];
    // Not all of it is there yet.
    let adoptions = adopt(&orchestrator, &b, &store_id, hand_in()).await.unwrap();
    assert_eq!(adoptions, [Adoption::BlobsMissing]);
    assert_eq!(orchestrator.job(job_id).await.counts.unwrap().finished, 0);
    // Of another store, whose job it is not.
    let adoptions = adopt(&orchestrator, &b, "another", hand_in()).await.unwrap();
    assert_eq!(adoptions, [Adoption::Unwanted]);

    orchestrator.upload(b"1").await;
    let adoptions = adopt(&orchestrator, &b, &store_id, hand_in()).await.unwrap();
    assert_eq!(adoptions, [Adoption::Adopted]);
    let job = orchestrator.job(job_id).await;
    assert_eq!(job.state(), JobState::Finished, "it is durable when it is answered");
    assert_eq!(orchestrator.frames(job_id).await[0].node, "b");
    // Nobody draws in vain.
    let Asked::Cancel(_) = a.asked().await else { panic!("not a cancel") };
    // An answer that was lost is asked for again; what differs comes too late; what is of no job is not wanted.
    let other = orchestrator.upload(b"2").await;
    let frames = vec![
        orphan(job_id, 1, png),
        orphan(job_id, 1, other),
        orphan(job_id, 2, png),
        orphan(77, 1, png),
    ];
    let adoptions = adopt(&orchestrator, &b, &store_id, frames).await.unwrap();
    use Adoption::{Adopted, Unwanted};
    assert_eq!(adoptions, [Adopted, Unwanted, Unwanted, Unwanted]);
    assert_eq!(orchestrator.job(job_id).await.revision, job.revision, "nothing has changed");
}

#[tokio::test]
async fn a_frame_whose_node_was_lost_is_taken_in_when_it_comes_back() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 2).await;
    let job_id = orchestrator.submit(spec).await;
    let (first, mut batch) = node.batch().await;
    batch.start(1);
    drop(batch);
    // Its process has died with the frame on its disk, and has begun anew.
    let mut client = orchestrator.client().await;
    let welcome = client.register_node(node.registration(2)).await.unwrap().into_inner();
    let request = AdoptFramesRequest {
        name: node.name.clone(),
        incarnation: 2,
        store_id: welcome.store_id,
        frames: vec![orphan(job_id, 1, png)],
    };
    let answer = client.adopt_frames(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.adoptions().collect::<Vec<_>>(), [Adoption::Adopted]);
    let stale = AdoptFramesRequest { incarnation: 1, ..request.clone() };
    assert_eq!(client.adopt_frames(stale).await.unwrap_err().code(), Code::Aborted);
    let unknown = AdoptFramesRequest { name: "nobody".to_owned(), ..request };
    assert_eq!(client.adopt_frames(unknown).await.unwrap_err().code(), Code::NotFound);
    let mut has_second = false;
    while !has_second {
        let Asked::Render(request, mut batch) = node.asked().await else { continue };
        assert!(request.batch_id > first.batch_id);
        for slice in request.slices {
            has_second |= slice.frame == 2;
            batch.start(slice.frame);
            batch.finish(slice.frame, png);
        }
        batch.end();
    }
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
}

#[tokio::test]
async fn what_is_handed_in_is_checked_all_faults_at_once() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let (job_id, _a, _batch, b, store_id) = two_nodes(&orchestrator).await;
    let png = framecrew_blobs::Digest::of(b"1");
    let mut outward = finished(1, png);
    outward.outputs[0].name = "../up.png".to_owned();
    let mut empty = finished(1, png);
    empty.outputs.clear();
    let frames = vec![
        orphan(0, 1, png),
        OrphanedFrame { job_id, finished: None },
        OrphanedFrame { job_id, finished: Some(outward) },
        OrphanedFrame { job_id, finished: Some(empty) },
    ];
    let status = adopt(&orchestrator, &b, &store_id, frames).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|violation| &*violation.field).collect();
    let expected = [
        "frames[0].job_id",
        "frames[1].finished",
        "frames[2].finished.outputs",
        "frames[3].finished.outputs",
    ];
    assert_eq!(fields, expected);
    let many = vec![orphan(job_id, 1, png); 513];
    let status = adopt(&orchestrator, &b, &store_id, many).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
