//! What is handed in is checked whole, and accepted once.

use framecrew_proto::v1::{
    CancelJobRequest, FrameRange, GetJobRequest, ImageFormat, JobSpec, JobState, ListJobsRequest,
    Movie, MovieFormat, ProjectFile, RenderSettings, SubmitJobRequest, WatchClusterRequest,
};
use tempfile::tempdir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::ScriptedNode,
};

async fn refusal(orchestrator: &Orchestrator, spec: JobSpec) -> Status {
    let request = SubmitJobRequest { request_id: "r".to_owned(), spec: Some(spec) };
    let status = orchestrator.client().await.submit_job(request).await.unwrap_err();
    let jobs = orchestrator.client().await.list_jobs(ListJobsRequest::default()).await.unwrap();
    assert!(jobs.into_inner().jobs.is_empty(), "a refused job leaves nothing behind");
    status
}

fn fields(status: &Status) -> Vec<String> {
    let bad_request = status.get_details_bad_request().unwrap();
    bad_request.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn every_faulty_field_is_named_at_once() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = JobSpec {
        name: String::new(),
        project: None,
        frames: vec![
            FrameRange { first: 9, last: 1, step: 1 },
            FrameRange { first: 1, last: 9, step: 0 },
        ],
        settings: Some(RenderSettings {
            engine: 99,
            format: 99,
            samples: Some(0),
            scale_percent: Some(2_000),
            blender: "new".to_owned(),
            view_layer: "x".repeat(256),
            color_depth: Some(9),
            ..RenderSettings::default()
        }),
        priority: 101,
        tags: vec![String::new()],
        movie: Some(Movie { format: 0 }),
        movie_of_job_id: 1,
        ..JobSpec::default()
    };
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut named = fields(&status);
    named.sort();
    assert_eq!(
        named,
        [
            "spec.frames[0]",
            "spec.frames[1].step",
            "spec.movie.format",
            "spec.movie_of_job_id",
            "spec.name",
            "spec.priority",
            "spec.project",
            "spec.settings.blender",
            "spec.settings.color_depth",
            "spec.settings.engine",
            "spec.settings.format",
            "spec.settings.samples",
            "spec.settings.scale_percent",
            "spec.settings.view_layer",
            "spec.tags[0]",
        ]
    );
}

#[tokio::test]
async fn frames_that_make_no_sense_are_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let range = |first, last| FrameRange { first, last, step: 1 };
    for (frames, words) in [
        (vec![], "empty"),
        (vec![range(1, 1_000_001)], "1000001 frames"),
        (vec![range(i32::MIN, i32::MAX)], "4294967296 frames"),
        (vec![range(1, 5), range(3, 3)], "twice"),
    ] {
        let mut spec = orchestrator.spec(1, 1).await;
        spec.frames = frames;
        let status = refusal(&orchestrator, spec).await;
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["spec.frames".to_owned()])
        );
        assert!(status.message().contains(words), "{}", status.message());
    }
}

#[tokio::test]
async fn a_path_that_could_leave_the_project_is_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    for path in [
        "../shot.blend",
        "a/../../b",
        "/etc/passwd",
        "C:/shot.blend",
        "\\\\host\\share",
        "a\\b",
        "nul\0",
        "",
        "a//b",
        "./a",
    ] {
        let mut spec = orchestrator.spec(1, 1).await;
        let project = spec.project.as_mut().unwrap();
        project.files[0].path = path.to_owned();
        project.blend_path = path.to_owned();
        let status = refusal(&orchestrator, spec).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{path:?}");
        assert_eq!(fields(&status), ["spec.project.files[0].path"], "{path:?}");
    }
}

#[tokio::test]
async fn a_blob_that_is_not_uploaded_is_named() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut spec = orchestrator.spec(1, 1).await;
    let digest = "0".repeat(64);
    spec.project.as_mut().unwrap().files.push(ProjectFile {
        path: "wood.png".to_owned(),
        digest: digest.clone(),
        size_bytes: 5,
        ..Default::default()
    });
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let unmet = status.get_details_precondition_failure().unwrap().violations;
    assert_eq!(unmet.len(), 1);
    assert_eq!(unmet[0].subject, digest);
    assert!(unmet[0].description.contains("wood.png"));
}

#[tokio::test]
async fn a_file_that_is_no_blend_is_refused_in_words() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec_of(b"version https://git-lfs.github.com/spec/v1\n", 1, 1).await;
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fields(&status), ["spec.project.blend_path"]);
}

#[tokio::test]
async fn a_movie_that_cannot_be_made_is_refused_before_a_frame_is_rendered() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let film = JobSpec {
        movie: Some(Movie { format: MovieFormat::Mp4.into() }),
        ..orchestrator.spec(1, 9).await
    };
    for format in [ImageFormat::OpenExr, ImageFormat::OpenExrMultilayer] {
        let format = format.into();
        let settings = Some(RenderSettings { format, ..RenderSettings::default() });
        let status = refusal(&orchestrator, JobSpec { settings, ..film.clone() }).await;
        assert_eq!(fields(&status), ["spec.movie"]);
        assert!(status.message().contains("cannot be encoded from OpenEXR"), "{status}");
    }
    let frames = vec![FrameRange { first: 1, last: 100_000, step: 1 }];
    let status = refusal(&orchestrator, JobSpec { frames, ..film.clone() }).await;
    assert_eq!(fields(&status), ["spec.movie"]);
    assert!(status.message().contains("the 1 files and the 100000 frames"), "{status}");
    let mut taken = film;
    let project = taken.project.as_mut().unwrap();
    let path = "Framecrew-frames/000001.png".to_owned();
    project.files.push(ProjectFile { path, ..project.files[0].clone() });
    let status = refusal(&orchestrator, taken).await;
    assert_eq!(fields(&status), ["spec.project.files[1].path"]);
}

#[tokio::test]
async fn a_request_id_of_the_orchestrator_s_own_kind_is_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = Some(orchestrator.spec(1, 1).await);
    let request = SubmitJobRequest { request_id: "movie-of-1".to_owned(), spec };
    let status = orchestrator.client().await.submit_job(request).await.unwrap_err();
    assert_eq!(fields(&status), ["request_id"]);
}

#[tokio::test]
async fn tags_that_no_node_bears_are_named_and_nothing_else_is_blamed() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let _node = ScriptedNode::join(&orchestrator, "a").await;
    let mut spec = orchestrator.spec(1, 1).await;
    spec.tags = vec!["gpu".to_owned()];
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("no node has the tags gpu"), "{}", status.message());
    let unmet = status.get_details_precondition_failure().unwrap().violations;
    assert_eq!(unmet[0].description, "has Blender 3.4.1");
}

#[tokio::test]
async fn the_same_request_makes_one_job_and_another_body_is_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec(1, 10).await;
    let request = SubmitJobRequest { request_id: "once".to_owned(), spec: Some(spec) };
    let mut client = orchestrator.client().await;
    let first = client.submit_job(request.clone()).await.unwrap().into_inner();
    let second = client.submit_job(request.clone()).await.unwrap().into_inner();
    assert!(!first.existed && second.existed);
    assert_eq!(first.job.as_ref().unwrap().job_id, second.job.unwrap().job_id);

    let mut other = request.clone();
    other.spec.as_mut().unwrap().priority = 1;
    let status = client.submit_job(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);

    // Also when the calls race, and after a restart.
    let mut racing = request.clone();
    racing.request_id = "race".to_owned();
    let calls = (0..8).map(|_| {
        let (mut client, request) = (client.clone(), racing.clone());
        async move { client.submit_job(request).await.unwrap().into_inner().job.unwrap().job_id }
    });
    let made = futures::future::join_all(calls).await;
    assert!(made.iter().all(|job| *job == made[0]), "{made:?}");
    orchestrator.kill().await;
    let orchestrator = Orchestrator::start(data.path()).await;
    let again = orchestrator.client().await.submit_job(request).await.unwrap().into_inner();
    assert!(again.existed);
    assert_eq!(
        again.job,
        first.job.map(|job| framecrew_proto::v1::Job {
            waiting_reason: "no node is registered".to_owned(),
            ..job
        })
    );
}

#[tokio::test]
async fn a_request_sent_again_is_answered_with_its_job_whatever_became_of_the_nodes() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let old = ScriptedNode::join(&orchestrator, "old").await;
    let able = ScriptedNode::join(&orchestrator, "able").await;
    let mut spec = orchestrator.spec(1, 1).await;
    spec.tags = vec!["gpu".to_owned()];
    let mut registration = able.registration(2);
    registration.description.as_mut().unwrap().tags = spec.tags.clone();
    let mut client = orchestrator.client().await;
    client.register_node(registration).await.unwrap();
    let request = SubmitJobRequest { request_id: "once".to_owned(), spec: Some(spec) };
    let first = client.submit_job(request.clone()).await.unwrap().into_inner();
    let goodbye =
        framecrew_proto::v1::UnregisterNodeRequest { name: able.name.clone(), incarnation: 2 };
    client.unregister_node(goodbye).await.unwrap();
    let second = client.submit_job(request).await.unwrap().into_inner();
    assert!(second.existed);
    assert_eq!(first.job.unwrap().job_id, second.job.unwrap().job_id);
    drop(old);
}

#[tokio::test]
async fn ids_are_malformed_or_unknown() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut client = orchestrator.client().await;
    for (job_id, code) in
        [(0, Code::InvalidArgument), (u64::MAX, Code::InvalidArgument), (7, Code::NotFound)]
    {
        let status = client.get_job(GetJobRequest { job_id }).await.unwrap_err();
        assert_eq!(status.code(), code, "{job_id}");
        let status = client.cancel_job(CancelJobRequest { job_id }).await.unwrap_err();
        assert_eq!(status.code(), code, "{job_id}");
    }
}

#[tokio::test]
async fn cancelling_a_job_that_is_over_tells_the_state_it_is_in() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec(1, 10).await;
    let job_id = orchestrator.submit(spec).await;
    for _ in 0..2 {
        let answer =
            orchestrator.client().await.cancel_job(CancelJobRequest { job_id }).await.unwrap();
        let job = answer.into_inner().job.unwrap();
        assert_eq!(job.state(), JobState::Cancelled);
        assert_eq!(job.counts.unwrap().cancelled, 10);
    }
}

#[tokio::test]
async fn jobs_are_listed_newest_first_a_page_at_a_time() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    for _ in 0..5 {
        let spec = orchestrator.spec(1, 1).await;
        orchestrator.submit(spec).await;
    }
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListJobsRequest { page_size: 2, page_token };
        let page = orchestrator.client().await.list_jobs(request).await.unwrap().into_inner();
        assert!(page.jobs.len() <= 2);
        listed.extend(page.jobs.iter().map(|job| job.job_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn jobs_of_many_ranges_come_in_pages_and_messages_that_clients_take() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut spec = orchestrator.spec(1, 1).await;
    // More than a hundred kilobytes.
    let every_other = (0..10_000).map(|n| FrameRange { first: 2 * n, last: 2 * n, step: 1 });
    spec.frames = every_other.collect();
    let mut submitted = Vec::new();
    for _ in 0..25 {
        submitted.push(orchestrator.submit(spec.clone()).await);
    }
    let mut client = orchestrator.client().await;
    let (mut listed, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let request = ListJobsRequest { page_size: 1_000, page_token };
        let page = client.list_jobs(request).await.unwrap().into_inner();
        assert!(page.jobs.iter().all(|job| job.spec.as_ref().unwrap().frames == spec.frames));
        listed.extend(page.jobs.iter().map(|job| job.job_id));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, 2);
    listed.reverse();
    assert_eq!(listed, submitted);

    let mut stream = client.watch_cluster(WatchClusterRequest {}).await.unwrap().into_inner();
    let (mut watched, mut messages) = (Vec::new(), 0);
    while watched.len() < submitted.len() {
        let message = patience(stream.message()).await.unwrap().unwrap();
        watched.extend(message.jobs.iter().map(|job| job.job_id));
        messages += 1;
    }
    assert_eq!((watched, messages), (submitted, 2));
}
