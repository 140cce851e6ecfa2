//! A node that loses its orchestrator, its store or its time: what it does with the frames it has.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, time::Duration};

use framecrew_node::{Config, RendererChoice};
use framecrew_proto::v1::{
    BatchEnd, DescribeNodeRequest, FailureReason, ProjectFile, RenderBatchRequest, TimeLimits,
    batch_event::Event,
};
use support::{Crew, end, eventually, failures, finished, request};
use tonic::{Code, Status};

const TTL: Duration = Duration::from_secs(15);

fn synthetic(millis: u64) -> RendererChoice {
    RendererChoice::Synthetic(Duration::from_millis(millis))
}

fn file() -> ProjectFile {
    ProjectFile {
        path: "shot.blend".into(),
        digest: "0".repeat(64),
        size_bytes: 1,
        chunks: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_frames_are_drawn_and_kept_and_told_of_when_it_is_back() {
    let crew = Crew::start(synthetic(20)).await;
    crew.state.lock().unwrap().store_is_away = true;
    let mut events = crew.render(request(1, file(), 1..=5)).await.unwrap();
    let mut started = 0;
    while started < 5 {
        match events.next().await.unwrap().unwrap().event {
            Some(Event::Started(_)) => started += 1,
            Some(Event::Progress(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    eventually("all frames", async || crew.status().await.kept_frames == 5).await;
    // Its slot is free for another batch meanwhile.
    let second = crew.render(request(2, file(), [6])).await.unwrap();
    eventually("one more", async || crew.status().await.kept_frames == 6).await;
    crew.state.lock().unwrap().store_is_away = false;
    let events = events.all().await;
    assert_eq!(end(&events), BatchEnd::Complete);
    let frames: Vec<_> = finished(&events).iter().map(|f| f.slice.unwrap().frame).collect();
    assert_eq!(frames, [1, 2, 3, 4, 5]);
    assert_eq!(finished(&second.all().await).len(), 1);
    // And when they are settled, nothing is kept any more.
    let settling = RenderBatchRequest { settled_batch_ids: vec![1, 2], ..request(3, file(), [7]) };
    crew.render(settling).await.unwrap().all().await;
    eventually("an empty outbox", async || crew.status().await.kept_frames == 1).await;
    assert_eq!(crew.state.lock().unwrap().offers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_fails_costs_no_frame() {
    let crew = Crew::start(synthetic(20)).await;
    let fails = || Some(Status::internal("the blob store failed; its log says why"));
    crew.state.lock().unwrap().store_refuses = fails();
    let events = crew.render(request(1, file(), 1..=3)).await.unwrap();
    eventually("all frames", async || crew.status().await.kept_frames == 3).await;
    crew.state.lock().unwrap().store_refuses = None;
    assert_eq!(finished(&events.all().await).len(), 3, "told of when it is mended");

    // Nor where nobody asks for them any more.
    crew.state.lock().unwrap().store_refuses = fails();
    let _events = crew.render(request(2, file(), 4..=6)).await.unwrap();
    eventually("all frames", async || crew.status().await.kept_frames == 6).await;
    crew.state.lock().unwrap().abandon = vec![1, 2];
    let offers = || crew.state.lock().unwrap().offers;
    // Those of the first batch are there; the second one's are offered again and again.
    eventually("offers", async || offers() >= 4).await;
    assert_eq!(crew.status().await.kept_frames, 3);
    crew.state.lock().unwrap().store_refuses = None;
    eventually("an empty outbox", async || crew.status().await.kept_frames == 0).await;
    assert_eq!(adopted(&crew), [1, 2, 3, 4, 5, 6]);
}

/// Frames that the orchestrator has adopted, some of them perhaps more than once.
fn adopted(crew: &Crew) -> Vec<i32> {
    let state = crew.state.lock().unwrap();
    let frames: BTreeSet<_> = state.adopted.iter().map(|f| f.slice.unwrap().frame).collect();
    frames.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_cannot_be_read_stays_when_the_others_are_handed_in() {
    let crew = Crew::start(synthetic(20)).await;
    crew.state.lock().unwrap().store_is_away = true;
    let events = crew.render(request(1, file(), 1..=3)).await.unwrap();
    eventually("all frames", async || crew.status().await.kept_frames == 3).await;
    // First: what a batch has in memory it need not read.
    crew.state.lock().unwrap().abandon = vec![1];
    assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    // It is there, and nothing can be read of it.
    let kept = support::files(&crew.data.path().join("outbox/blobs"));
    let content = std::fs::read(&kept[0]).unwrap();
    std::fs::remove_file(&kept[0]).unwrap();
    std::fs::create_dir(&kept[0]).unwrap();
    crew.state.lock().unwrap().store_is_away = false;
    eventually("the other two", async || adopted(&crew).len() == 2).await;
    let offers = crew.state.lock().unwrap().offers;
    eventually("another offer", async || crew.state.lock().unwrap().offers > offers).await;
    assert_eq!(crew.status().await.kept_frames, 3);
    std::fs::remove_dir(&kept[0]).unwrap();
    std::fs::write(&kept[0], content).unwrap();
    eventually("an empty outbox", async || crew.status().await.kept_frames == 0).await;
    assert_eq!(adopted(&crew), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_abandoned_batch_had_finished_is_handed_in() {
    let crew = Crew::start(synthetic(10)).await;
    let mut events = crew.render(request(1, file(), 1..=1_000)).await.unwrap();
    for _ in 0..3 {
        events.until(|event| matches!(event, Event::Finished(_))).await;
    }
    crew.state.lock().unwrap().abandon = vec![1];
    assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    eventually("an empty outbox", async || crew.status().await.kept_frames == 0).await;
    let state = crew.state.lock().unwrap();
    let frames: Vec<_> = state.adopted.iter().map(|f| f.slice.unwrap().frame).collect();
    assert!(frames.starts_with(&[1, 2, 3]), "{frames:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_store_the_former_ones_frames_go_and_so_do_its_epochs() {
    let crew = Crew::start(synthetic(20)).await;
    let former = RenderBatchRequest { epoch: 900, ..request(800, file(), [1]) };
    crew.render(former).await.unwrap().all().await;
    let slow = RenderBatchRequest { epoch: 900, ..request(801, file(), 1..=1_000) };
    let slow = crew.render(slow).await.unwrap();
    eventually("kept frames", async || crew.status().await.kept_frames > 1).await;
    crew.state.lock().unwrap().store_id = "other".into();
    assert_eq!(end(&slow.all().await), BatchEnd::Cancelled);
    eventually("an empty outbox", async || crew.status().await.kept_frames == 0).await;
    assert_eq!(crew.state.lock().unwrap().offers, 0);
    // Lower than what the former one said.
    let own = RenderBatchRequest { store_id: "other".into(), ..request(1, file(), [1]) };
    assert_eq!(end(&crew.render(own).await.unwrap().all().await), BatchEnd::Complete);
    assert_eq!(crew.cancel(1).await.err().unwrap().code(), Code::NotFound, "which is another's");
    // And the former one is nobody any more.
    let late = RenderBatchRequest { epoch: 901, ..request(802, file(), [1]) };
    assert_eq!(crew.render(late).await.err().unwrap().code(), Code::Unavailable);
    assert_eq!(crew.attach(801, 0).await.err().unwrap().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_job_bears_silence_outlasts_the_lease_and_others_do_not() {
    let renderer = synthetic(200);
    let two = |config| Config { renderer, slots: 2, ..config };
    let crew = Crew::start_as(Duration::from_secs(1), two).await.unwrap();
    let limits = TimeLimits { node_silence_seconds: Some(3_600), ..TimeLimits::default() };
    let patient = RenderBatchRequest { limits: Some(limits), ..request(1, file(), 1..=20) };
    let patient = crew.render(patient).await.unwrap();
    let other = crew.render(request(2, file(), 1..=1_000)).await.unwrap();
    crew.state.lock().unwrap().refuse = Some(Status::unavailable("away"));
    assert_eq!(end(&other.all().await), BatchEnd::Cancelled);
    assert!(!crew.status().await.leased);
    let refused = crew.render(request(3, file(), [1])).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let events = patient.all().await;
    assert_eq!((end(&events), finished(&events).len()), (BatchEnd::Complete, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_takes_longer_than_its_limit_fails_with_a_sentence_that_names_it() {
    let crew = Crew::start(synthetic(3_600_000)).await;
    let limits = TimeLimits { frame_seconds: Some(1), ..TimeLimits::default() };
    let request = RenderBatchRequest { limits: Some(limits), ..request(1, file(), [1]) };
    let failure = failures(&crew.render(request).await.unwrap().all().await).remove(0);
    assert_eq!(failure.reason(), FailureReason::Timeout);
    assert!(failure.message.contains("1 seconds") && failure.message.contains("--frame-limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_whether_it_confines() {
    let crew = Crew::start_with(synthetic(0), TTL).await;
    let answer = crew.node.clone().describe_node(DescribeNodeRequest {}).await.unwrap();
    let description = answer.into_inner().description.unwrap();
    assert_eq!(description.confines, framecrew_node::walls().is_ok());
}
