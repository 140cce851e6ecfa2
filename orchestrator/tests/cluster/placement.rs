//! A job goes where it can be rendered, or is refused in words that say what is missing.

use framecrew_proto::v1::{
    Blender, BlenderKind, JobSpec, ListJobsRequest, Movie, MovieFormat, RenderSettings,
    SubmitJobRequest,
};
use tempfile::tempdir;
use tonic::{Code, Status};

use crate::{
    harness::Orchestrator,
    scripted_node::{ScriptedNode, description},
};

async fn refusal(orchestrator: &Orchestrator, spec: JobSpec) -> Status {
    let request = SubmitJobRequest { request_id: "r".to_owned(), spec: Some(spec) };
    let status = orchestrator.client().await.submit_job(request).await.unwrap_err();
    let jobs = orchestrator.client().await.list_jobs(ListJobsRequest::default()).await.unwrap();
    assert!(jobs.into_inner().jobs.is_empty(), "a refused job leaves nothing behind");
    status
}

/// A job of a file saved by 4.5, uploaded.
async fn newer(orchestrator: &Orchestrator, last: i32) -> JobSpec {
    let blend: &[u8] = b"BLENDER-v405 and so on ENDB";
    let digest = orchestrator.upload(blend).await;
    let mut spec = orchestrator.spec(1, last).await;
    let file = &mut spec.project.as_mut().unwrap().files[0];
    (file.digest, file.size_bytes) = (digest.to_string(), blend.len() as u64);
    spec
}

#[tokio::test]
async fn a_file_that_no_node_can_open_is_refused_with_what_the_nodes_have() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let _a = ScriptedNode::join(&orchestrator, "a").await;
    let _b = ScriptedNode::join_as(&orchestrator, "b", description("3.6.9")).await;
    let spec = newer(&orchestrator, 1).await;
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        "the file was saved by Blender 4.5; an older one may lose some of it, and the nodes have 3.4.1, 3.6.9; \
         start a node that has 4.5 or newer, or may fetch it (--provision), or ask for an older one anyway \
         (--blender)"
    );
}

#[tokio::test]
async fn one_node_with_the_right_blender_among_three_renders_all_of_it() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut old = [
        ScriptedNode::join(&orchestrator, "a").await,
        ScriptedNode::join(&orchestrator, "b").await,
    ];
    let mut able = ScriptedNode::join_as(&orchestrator, "c", description("4.5.15")).await;
    let spec = newer(&orchestrator, 3).await;
    let job_id = orchestrator.submit(spec).await;
    let png = orchestrator.upload(b"1").await;
    let mut drawn = 0;
    while drawn < 3 {
        let (request, mut batch) = able.batch().await;
        assert_eq!((request.job_id, &*request.file_version), (job_id, "4.5"));
        for slice in &request.slices {
            batch.start(slice.frame);
            batch.finish(slice.frame, png);
            drawn += 1;
        }
        batch.end();
    }
    orchestrator.until(job_id, |job| job.counts.unwrap().finished == 3).await;
    assert!(old.iter_mut().all(ScriptedNode::was_asked_nothing));
}

#[tokio::test]
async fn a_blender_that_a_node_may_fetch_is_one_that_it_has() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut description = description("3.4.1");
    description.blenders.push(Blender {
        version: "4.5.15".to_owned(),
        kind: BlenderKind::Provisionable.into(),
        ..Blender::default()
    });
    let mut node = ScriptedNode::join_as(&orchestrator, "a", description).await;
    let spec = newer(&orchestrator, 1).await;
    let job_id = orchestrator.submit(spec).await;
    assert_eq!(node.batch().await.0.job_id, job_id);
}

#[tokio::test]
async fn a_version_asked_for_is_refused_where_nobody_has_it_or_it_is_too_old_for_the_file() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut spec = newer(&orchestrator, 1).await;
    spec.settings = Some(RenderSettings { blender: "4.2".to_owned(), ..RenderSettings::default() });
    let mut of_5 = spec.clone();
    let file = &mut of_5.project.as_mut().unwrap().files[0];
    let blend: &[u8] = b"BLENDER17-01v0500 and so on ENDB";
    let digest = orchestrator.upload(blend).await;
    (file.digest, file.size_bytes) = (digest.to_string(), blend.len() as u64);
    // No node would ever do, so none is waited for.
    let status = refusal(&orchestrator, of_5).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("saved by Blender 5.0"), "{status}");

    let _node = ScriptedNode::join_as(&orchestrator, "a", description("4.5.15")).await;
    spec.settings.as_mut().unwrap().blender = "5.0".to_owned();
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let words = "the job asks for Blender 5.0, but the nodes have 4.5.15";
    assert!(status.message().starts_with(words), "{status}");
}

#[tokio::test]
async fn a_version_older_than_the_file_draws_it_on_request() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut newer_node = ScriptedNode::join_as(&orchestrator, "a", description("4.5.15")).await;
    let mut older = ScriptedNode::join_as(&orchestrator, "b", description("4.2.3")).await;
    let mut spec = newer(&orchestrator, 1).await;
    spec.settings = Some(RenderSettings { blender: "4.2".to_owned(), ..RenderSettings::default() });
    let job_id = orchestrator.submit(spec).await;
    let (request, _batch) = older.batch().await;
    assert_eq!((request.job_id, &*request.file_version), (job_id, "4.5"));
    assert!(newer_node.was_asked_nothing());
}

#[tokio::test]
async fn movies_and_scripts_need_a_node_for_them() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let _plain = ScriptedNode::join(&orchestrator, "a").await;
    let mut film = orchestrator.spec(1, 1).await;
    film.movie = Some(Movie { format: MovieFormat::Mp4.into() });
    let status = refusal(&orchestrator, film.clone()).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("no node has ffmpeg"), "{status}");

    let mut scripted = orchestrator.spec(1, 1).await;
    scripted.settings = Some(RenderSettings { run_scripts: true, ..RenderSettings::default() });
    let status = refusal(&orchestrator, scripted.clone()).await;
    let words = "no node allows scripts: start one with --allow-scripts";
    assert!(status.message().starts_with(words), "{status}");

    // Each on a node of its own is not enough for both.
    let mut with_ffmpeg = description("3.4.1");
    with_ffmpeg.ffmpeg = "6.1".to_owned();
    let mut with_scripts = description("3.4.1");
    with_scripts.allows_scripts = true;
    let _b = ScriptedNode::join_as(&orchestrator, "b", with_ffmpeg).await;
    let mut c = ScriptedNode::join_as(&orchestrator, "c", with_scripts).await;
    let both = JobSpec { movie: film.movie, ..scripted.clone() };
    let status = refusal(&orchestrator, both).await;
    assert!(status.message().contains("no single node has all of this"), "{status}");
    let job_id = orchestrator.submit(scripted).await;
    assert_eq!(c.batch().await.0.job_id, job_id);
    orchestrator.submit(film).await;
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_refused_at_once() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = orchestrator.spec_of(b"BLENDER-v304 and so", 1, 1).await;
    let status = refusal(&orchestrator, spec).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("shot.blend is cut off"), "{status}");
}
