//! A node with the synthetic renderer, over real sockets: batches, streams, leases.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use framecrew_node::{Config, Expelled, RendererChoice, ServeError};
use framecrew_proto::v1::{
    BatchEnd, NodeStatus, ProjectFile, RenderBatchRequest, RenderSettings, WatchNodeRequest,
    batch_event::Event,
};
use support::{Crew, end, eventually, finished, request};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn synthetic(millis: u64) -> RendererChoice {
    RendererChoice::Synthetic(Duration::from_millis(millis))
}

/// A file that the synthetic renderer never opens.
fn file() -> ProjectFile {
    ProjectFile {
        path: "shot.blend".into(),
        digest: "0".repeat(64),
        size_bytes: 1,
        chunks: Vec::new(),
    }
}

/// A batch that lasts until it is cancelled.
fn endless(batch_id: u64) -> RenderBatchRequest {
    request(batch_id, file(), 1..=1_000)
}

#[tokio::test]
async fn a_batch_is_numbered_without_gaps_and_ends_explicitly() {
    let crew = Crew::start(synthetic(200)).await;
    let events = crew.render(request(1, file(), 1..=3)).await.unwrap();
    let events = events.all().await;
    assert_eq!(end(&events), BatchEnd::Complete);
    let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert!(sequences.is_sorted() && sequences[0] == 1, "{sequences:?}");
    let progress = events.iter().filter(|e| matches!(e.event, Some(Event::Progress(_))));
    assert!(progress.count() > 5);

    let frames = finished(&events);
    let numbers: Vec<_> = frames.iter().map(|f| f.slice.unwrap().frame).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let state = crew.state.lock().unwrap();
    for frame in frames {
        let output = &frame.outputs[0];
        let stored = &state.blobs[&output.digest];
        assert_eq!(stored.len() as u64, output.size_bytes);
        let image = image::load_from_memory(stored).unwrap();
        assert_eq!((image.width(), image.height()), (output.width, output.height));
    }
}

#[tokio::test]
async fn frames_without_time_upload_their_picture_once() {
    let crew = Crew::start(synthetic(0)).await;
    let events = crew.render(request(1, file(), 1..=1_000)).await.unwrap();
    assert_eq!(finished(&events.all().await).len(), 1_000);
    let second = crew.render(request(2, file(), 1..=10)).await.unwrap();
    assert_eq!(finished(&second.all().await).len(), 10);
    assert_eq!(crew.state.lock().unwrap().uploads, 1);
}

#[tokio::test]
async fn a_dropped_stream_renders_on_and_resumes_without_a_gap() {
    let crew = Crew::start(synthetic(20)).await;
    let mut events = crew.render(request(1, file(), 1..=20)).await.unwrap();
    let first = events.until(|event| matches!(event, Event::Finished(_))).await;
    let last = first.last().unwrap().sequence;
    drop(events);
    eventually("the end", async || crew.status().await.live_batch_ids.is_empty()).await;
    let rest = crew.attach(1, last).await.unwrap().all().await;
    assert_eq!(rest[0].sequence, last + 1);
    assert_eq!(finished(&first).len() + finished(&rest).len(), 20);
    // And again: nothing was forgotten.
    let all = crew.attach(1, 0).await.unwrap().all().await;
    assert_eq!(finished(&all).len(), 20);
}

#[tokio::test]
async fn a_newer_attach_ends_the_older_with_aborted() {
    let crew = Crew::start(synthetic(1_000)).await;
    let mut older = crew.render(endless(1)).await.unwrap();
    older.until(|event| matches!(event, Event::Started(_))).await;
    let mut newer = crew.attach(1, 0).await.unwrap();
    let status = loop {
        match older.next().await.unwrap() {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted);
    newer.until(|event| matches!(event, Event::Progress(_))).await;
}

#[tokio::test]
async fn a_cancelled_batch_ends_as_cancelled_and_is_forgotten_by_a_second_cancel() {
    let crew = Crew::start(synthetic(1_000)).await;
    let events = crew.render(endless(1)).await.unwrap();
    crew.cancel(1).await.unwrap();
    assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    crew.cancel(1).await.unwrap();
    assert_eq!(crew.cancel(1).await.unwrap_err().code(), Code::NotFound);
    let gone = crew.attach(1, 0).await.err().unwrap();
    assert_eq!(gone.code(), Code::NotFound);
    // In which life it does not know the batch: an orchestrator tells by it whether the batch ever came.
    let told = gone.get_details_error_info().unwrap();
    let incarnation = crew.state.lock().unwrap().registered[0].incarnation;
    assert_eq!(told.reason, "UNKNOWN_BATCH");
    assert_eq!(told.metadata["incarnation"], incarnation.to_string());
}

#[tokio::test]
async fn a_node_refuses_work_that_its_owner_has_not_allowed() {
    let crew = Crew::start(synthetic(0)).await;
    let with_settings = |id, settings| {
        let mut request = request(id, file(), [1]);
        let addon = ProjectFile { path: "addon.zip".into(), ..file() };
        request.project.as_mut().unwrap().files.push(addon);
        RenderBatchRequest { settings: Some(settings), ..request }
    };
    let scripted = RenderSettings { run_scripts: true, ..RenderSettings::default() };
    let extended = RenderSettings { addons: vec!["addon.zip".into()], ..RenderSettings::default() };
    for (settings, id) in [scripted.clone(), extended.clone()].into_iter().zip(1..) {
        let refused = crew.render(with_settings(id, settings)).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.get_details_error_info().unwrap().reason, "SCRIPTS");
        assert!(refused.message().contains("--allow-scripts"), "{refused:?}");
    }
    let allowing = Crew::start_as(Duration::from_secs(15), |config| Config {
        renderer: synthetic(0),
        allow_scripts: true,
        ..config
    });
    let allowing = allowing.await.unwrap();
    for (settings, id) in [scripted, extended].into_iter().zip(1..) {
        let events = allowing.render(with_settings(id, settings)).await.unwrap().all().await;
        assert_eq!(finished(&events).len(), 1);
    }
}

#[tokio::test]
async fn one_batch_waits_for_each_slot_and_the_next_is_refused_with_a_reason() {
    let crew = Crew::start(synthetic(1_000)).await;
    let _first = crew.render(endless(1)).await.unwrap();
    let second = crew.render(request(2, file(), [1])).await.unwrap();
    let refused = crew.render(endless(3)).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "SLOTS");
    assert_eq!(crew.status().await.busy_slots, 1);
    crew.cancel(1).await.unwrap();
    assert_eq!(end(&second.all().await), BatchEnd::Complete);
}

#[tokio::test]
async fn a_known_batch_a_stale_epoch_and_a_faulty_request_are_refused() {
    let crew = Crew::start(synthetic(0)).await;
    crew.render(request(1, file(), [1])).await.unwrap().all().await;
    let code = async |request| crew.render(request).await.err().map(|status| status.code());
    assert_eq!(code(request(1, file(), [1])).await, Some(Code::AlreadyExists));

    let newer = RenderBatchRequest { epoch: 7, ..request(2, file(), [1]) };
    assert_eq!(code(newer).await, None);
    assert_eq!(code(request(3, file(), [1])).await, Some(Code::Aborted));
    let stale = crew.attach(2, 0).await.err().unwrap();
    assert_eq!(stale.code(), Code::Aborted);

    let mut faulty = request(0, file(), []);
    faulty.project.as_mut().unwrap().files[0].path = "/etc/passwd".into();
    let status = crew.render(faulty).await.err().unwrap();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["batch_id", "slices", "project.files[0].path", "project.blend_path"]);
}

#[tokio::test]
async fn a_settled_batch_is_forgotten_but_not_while_it_runs() {
    let crew = Crew::start(synthetic(50)).await;
    crew.render(request(1, file(), [1])).await.unwrap().all().await;
    let _live = crew.render(request(2, file(), 1..=1_000)).await.unwrap();
    let settling = RenderBatchRequest { settled_batch_ids: vec![1, 2], ..request(3, file(), [1]) };
    let _third = crew.render(settling).await.unwrap();
    let gone = crew.attach(1, 0).await.err().unwrap();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(crew.attach(2, 0).await.is_ok());
}

#[tokio::test]
async fn a_heartbeat_can_abandon_a_batch() {
    let crew = Crew::start(synthetic(1_000)).await;
    let events = crew.render(endless(1)).await.unwrap();
    crew.state.lock().unwrap().abandon = vec![1];
    assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    let gone = crew.attach(1, 0).await.err().unwrap();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn a_lease_that_runs_out_fences_the_node_until_it_has_a_new_one() {
    let crew = Crew::start_with(synthetic(1_000), Duration::from_secs(1)).await;
    let events = crew.render(endless(1)).await.unwrap();
    crew.state.lock().unwrap().refuse = Some(Status::unavailable("away"));
    assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    let refused = crew.render(endless(2)).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);

    crew.state.lock().unwrap().refuse = None;
    eventually("a new lease", async || crew.status().await.leased).await;
    assert!(crew.render(endless(3)).await.is_ok());
    // Its events were kept: the orchestrator may still want them.
    assert!(crew.attach(1, 0).await.is_ok());
}

#[tokio::test]
async fn an_orchestrator_that_forgot_the_node_gets_it_back_in_the_same_incarnation() {
    let crew = Crew::start(synthetic(0)).await;
    crew.render(request(5, file(), [1])).await.unwrap().all().await;
    crew.state.lock().unwrap().refuse = Some(Status::not_found("who?"));
    let beats = crew.state.lock().unwrap().heartbeats;
    eventually("a heartbeat refused", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        crew.state.lock().unwrap().heartbeats == beats
    })
    .await;
    let before = crew.state.lock().unwrap().registered.len();
    crew.state.lock().unwrap().refuse = None;
    let count = async || crew.state.lock().unwrap().registered.len();
    eventually("a registration", async || count().await > before).await;
    let state = crew.state.lock().unwrap();
    let (first, second) = (&state.registered[0], state.registered.last().unwrap());
    assert_eq!(first.incarnation, second.incarnation);
    assert_eq!(second.batch_ids, [5]);
    assert_eq!(second.description.as_ref().unwrap().tags, ["fast"]);
}

#[tokio::test]
async fn a_superseded_node_ends() {
    let mut crew = Crew::start(synthetic(0)).await;
    crew.state.lock().unwrap().refuse = Some(Status::aborted("a newer incarnation"));
    let ended = crew.ended().await;
    assert!(matches!(ended, Err(ServeError::Expelled(Expelled::Superseded { .. }))));
}

#[tokio::test]
async fn a_node_that_stops_ends_its_streams_and_says_goodbye() {
    let mut crew = Crew::start(synthetic(1_000)).await;
    let events = crew.render(endless(1)).await.unwrap();
    let mut watch = crew.node.clone().watch_node(WatchNodeRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let (stopped, events) = tokio::join!(crew.stop(), events.all());
    stopped.unwrap();
    assert_eq!(end(&events), BatchEnd::Cancelled);
    assert_eq!(crew.state.lock().unwrap().left.len(), 1);
    while let Ok(Some(_)) = watch.message().await {}
}

#[tokio::test]
async fn whoever_watches_sees_the_node_begin_and_end_its_work() {
    let crew = Crew::start(synthetic(300)).await;
    let mut watch = crew.node.clone().watch_node(WatchNodeRequest {}).await.unwrap().into_inner();
    let mut status = async || watch.message().await.unwrap().unwrap().status.unwrap();
    let kept_bytes_max = crew.status().await.kept_bytes_max;
    let idle = NodeStatus { leased: true, kept_bytes_max, ..NodeStatus::default() };
    assert_eq!(status().await, idle);
    let events = crew.render(request(1, file(), 1..=2)).await.unwrap();
    let busy = NodeStatus { live_batch_ids: vec![1], busy_slots: 1, ..idle };
    while status().await != busy {}
    events.all().await;
    // It is kept until it is settled.
    while status().await.kept_frames != 2 {}
}

#[tokio::test]
async fn two_nodes_do_not_share_a_data_folder() {
    let crew = Crew::start(synthetic(0)).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let data = crew.data.path();
    let config = framecrew_node::Config::new("other", "http://127.0.0.1:9", synthetic(0), data);
    let served = framecrew_node::serve(listener, config, std::future::pending()).await;
    assert!(matches!(served, Err(ServeError::DataInUse { .. })));
}

#[tokio::test]
async fn health_and_both_reflections_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::{v1, v1alpha};

    let crew = Crew::start(synthetic(0)).await;
    let service = "framecrew.v1.RenderNode";
    let mut health = HealthClient::new(crew.channel());
    let request = HealthCheckRequest { service: service.into() };
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), serving);

    macro_rules! services {
        ($version:ident) => {{
            use $version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = ServerReflectionClient::new(crew.channel());
            let answers = client.server_reflection_info(futures::stream::iter([request])).await;
            let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("{answer:?}");
            };
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    assert!(services!(v1).iter().any(|name| name == service));
    assert!(services!(v1alpha).iter().any(|name| name == service));
}
