//! A killed orchestrator goes on where it was.

use std::{sync::atomic::Ordering, time::Duration};

use framecrew_proto::v1::{JobState, WatchJobRequest, watch_job_response::Update};
use tempfile::tempdir;

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::{Asked, ScriptedNode},
};

#[tokio::test]
async fn live_batches_are_attached_to_and_nothing_is_rendered_twice() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let spec = orchestrator.spec(1, 2).await;
    let job_id = orchestrator.submit(spec).await;
    let (first, mut batch) = node.batch().await;
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    let (second, mut batch) = node.batch().await;
    assert!(second.batch_id > first.batch_id);
    batch.start(2);
    let before = orchestrator.until(job_id, |job| job.counts.unwrap().finished == 1).await;
    orchestrator.kill().await;

    let orchestrator = Orchestrator::start(data.path()).await;
    let Asked::Attach(attach, mut batch) = node.asked().await else { panic!("not an attach") };
    assert_eq!((attach.batch_id, attach.after_sequence), (second.batch_id, 0));
    assert!(attach.epoch > second.epoch);
    // The node replays what it said before, and goes on.
    batch.start(2);
    batch.finish(2, png);
    batch.end();
    let job = orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert!(job.revision > before.revision);
    let frames = orchestrator.frames(job_id).await;
    assert!(frames.iter().all(|frame| frame.failed_attempts == 0));

    // A watcher goes on from the revision it had in the former life.
    let request =
        WatchJobRequest { job_id, after_revision: before.revision, store_id: String::new() };
    let mut stream = orchestrator.client().await.watch_job(request).await.unwrap().into_inner();
    let message = patience(stream.message()).await.unwrap().unwrap();
    let Some(Update::Changes(changes)) = message.update else { panic!("{message:?}") };
    assert_eq!(changes.frames.iter().map(|frame| frame.frame).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn only_the_life_of_a_node_that_a_batch_was_sent_to_can_tell_that_it_never_came() {
    // One that does not say in which life it speaks is believed.
    for (answers, incarnation, blamed) in [("1", 1, 0), ("2", 2, 1), ("", 1, 0)] {
        let data = tempdir().unwrap();
        let orchestrator = Orchestrator::start(data.path()).await;
        let mut node = ScriptedNode::join(&orchestrator, "a").await;
        let png = orchestrator.upload(b"1").await;
        let spec = orchestrator.spec(1, 1).await;
        let job_id = orchestrator.submit(spec).await;
        let _ = node.batch().await;
        orchestrator.kill().await;

        *node.knows_nothing.lock().unwrap() = Some(answers);
        let orchestrator = Orchestrator::start(data.path()).await;
        // The first change after the one that the job was submitted with.
        orchestrator.until(job_id, |job| job.revision > 1).await;
        let registration = node.registration(incarnation);
        orchestrator.client().await.register_node(registration).await.unwrap();
        let (_, mut batch) = node.batch().await;
        batch.start(1);
        batch.finish(1, png);
        batch.end();
        orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
        assert_eq!(orchestrator.frames(job_id).await[0].failed_attempts, blamed);
    }
}

#[tokio::test]
async fn another_node_at_the_address_of_one_does_not_speak_for_it() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let png = orchestrator.upload(b"1").await;
    let job_id = orchestrator.submit(orchestrator.spec(1, 1).await).await;
    let (request, mut batch) = node.batch().await;
    batch.start(1);
    orchestrator.kill().await;

    *node.knows_nothing.lock().unwrap() = Some("b 9");
    let orchestrator = Orchestrator::start(data.path()).await;
    patience(async {
        while node.denied.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    *node.knows_nothing.lock().unwrap() = None;
    let Asked::Attach(attach, mut batch) = node.asked().await else { panic!("not an attach") };
    assert_eq!(attach.batch_id, request.batch_id);
    batch.start(1);
    batch.finish(1, png);
    batch.end();
    orchestrator.until(job_id, |job| job.state() == JobState::Finished).await;
    assert_eq!(orchestrator.frames(job_id).await[0].failed_attempts, 0);
}

#[tokio::test]
async fn a_batch_cancelled_before_the_crash_is_cancelled_again() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = ScriptedNode::join(&orchestrator, "a").await;
    let spec = orchestrator.spec(1, 1).await;
    let job_id = orchestrator.submit(spec.clone()).await;
    let (request, mut batch) = node.batch().await;
    batch.start(1);
    let cancel = framecrew_proto::v1::CancelJobRequest { job_id };
    orchestrator.client().await.cancel_job(cancel).await.unwrap();
    orchestrator.kill().await;

    let orchestrator = Orchestrator::start(data.path()).await;
    let mut cancels = 0;
    let next = orchestrator.submit(spec).await;
    loop {
        match node.asked().await {
            Asked::Cancel(batch_id) => {
                assert_eq!(batch_id, request.batch_id);
                cancels += 1;
            }
            Asked::Attach(..) => {}
            Asked::Render(request, _) => {
                assert_eq!(request.job_id, next);
                break;
            }
        }
    }
    assert!(cancels >= 1);
    assert_eq!(orchestrator.job(job_id).await.state(), JobState::Cancelled);
}

#[tokio::test]
async fn a_second_orchestrator_on_the_same_data_is_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    orchestrator.channel().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = framecrew_orchestrator::Config::new(data.path().to_owned());
    let error =
        framecrew_orchestrator::serve(listener, config, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("another orchestrator"), "{error}");
}

#[tokio::test]
async fn a_database_that_is_none_is_refused_in_words() {
    let data = tempdir().unwrap();
    std::fs::write(data.path().join("framecrew.db"), b"this is not a database".repeat(100))
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = framecrew_orchestrator::Config::new(data.path().to_owned());
    let error =
        framecrew_orchestrator::serve(listener, config, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("cannot use the store"), "{error}");
}
