//! A job's frames become a movie, by a job that the orchestrator makes.

use framecrew_proto::v1::{
    CancelJobRequest, FrameRange, JobSpec, JobState, ListJobsRequest, Movie, MovieFormat,
    WatchJobRequest, watch_job_response::Update,
};
use tempfile::tempdir;

use crate::{
    harness::{Orchestrator, patience},
    scripted_node::{Asked, ScriptedNode, description},
};

async fn film_node(orchestrator: &Orchestrator, name: &str) -> ScriptedNode {
    let mut description = description("3.4.1");
    description.ffmpeg = "6.1".to_owned();
    ScriptedNode::join_as(orchestrator, name, description).await
}

async fn spec_of_movie(orchestrator: &Orchestrator) -> JobSpec {
    JobSpec {
        name: "sunrise/final".to_owned(),
        movie: Some(Movie { format: MovieFormat::Webm.into() }),
        priority: 3,
        frames: vec![
            FrameRange { first: 10, last: 10, step: 1 },
            FrameRange { first: -1, last: -1, step: 1 },
        ],
        ..orchestrator.spec(1, 1).await
    }
}

#[tokio::test]
async fn a_finished_job_s_watcher_learns_the_movie_s_job_which_gets_the_frames_in_order() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = film_node(&orchestrator, "a").await;
    let spec = spec_of_movie(&orchestrator).await;
    let job_id = orchestrator.submit(spec.clone()).await;
    let request = WatchJobRequest { job_id, ..WatchJobRequest::default() };
    let mut stream = orchestrator.client().await.watch_job(request).await.unwrap().into_inner();
    let pictures = [orchestrator.upload(b"t").await, orchestrator.upload(b"m").await];
    for picture in pictures {
        let (request, mut batch) = node.batch().await;
        assert_eq!(request.encoding, None);
        batch.start(request.slices[0].frame);
        batch.finish(request.slices[0].frame, picture);
        batch.end();
    }
    let ended = loop {
        match patience(stream.message()).await.unwrap().unwrap().update.unwrap() {
            Update::Ended(ended) => break ended.job.unwrap(),
            Update::Snapshot(snapshot) => {
                let job = snapshot.job.unwrap();
                assert_eq!((job.movie_job_id, job.spec.unwrap().project), (0, None));
            }
            Update::Changes(_) => {}
        }
    };
    assert_eq!(ended.state(), JobState::Finished);
    assert_ne!(ended.movie_job_id, 0);

    let movie = orchestrator.job(ended.movie_job_id).await;
    let made = movie.spec.unwrap();
    assert_eq!((made.movie_of_job_id, made.name, made.priority), (job_id, spec.name, 3));
    let (request, mut batch) = node.batch().await;
    assert_eq!(request.job_id, ended.movie_job_id);
    let encoding = request.encoding.unwrap();
    assert_eq!((encoding.format(), &*encoding.name), (MovieFormat::Webm, "sunrise_final"));
    assert_eq!((&*encoding.frames_folder, encoding.frames), ("framecrew-frames", spec.frames));
    let files = request.project.unwrap().files;
    let files: Vec<_> = files.iter().map(|file| (&*file.path, &*file.digest)).collect();
    let [ten, minus_one] = pictures.map(|digest| digest.to_string());
    assert_eq!(files[0].0, "shot.blend");
    assert_eq!(
        files[1..],
        [("framecrew-frames/000001.png", &*minus_one), ("framecrew-frames/000002.png", &*ten)]
    );
    batch.start(1);
    batch.finish(1, pictures[0]);
    batch.end();
    let movie = orchestrator.until(request.job_id, |job| job.state() == JobState::Finished).await;
    assert_eq!(movie.movie_job_id, 0, "a movie makes no movie");
}

#[tokio::test]
async fn a_movie_is_made_once_however_often_the_orchestrator_dies() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = film_node(&orchestrator, "a").await;
    let mut spec = spec_of_movie(&orchestrator).await;
    spec.frames.truncate(1);
    let job_id = orchestrator.submit(spec).await;
    let png = orchestrator.upload(b"1").await;
    let (request, mut batch) = node.batch().await;
    batch.start(10);
    batch.finish(10, png);
    batch.end();
    // Somewhere between the node's word and the movie's first batch.
    orchestrator.kill().await;
    let mut orchestrator = Orchestrator::start(data.path()).await;
    let movie = loop {
        match node.asked().await {
            Asked::Attach(attach, mut batch) if attach.batch_id == request.batch_id => {
                batch.start(10);
                batch.finish(10, png);
                batch.end();
            }
            Asked::Attach(..) | Asked::Cancel(_) => {}
            Asked::Render(request, batch) => {
                drop(batch);
                break request.job_id;
            }
        }
    };
    for _ in 0..2 {
        orchestrator.kill().await;
        orchestrator = Orchestrator::start(data.path()).await;
        assert_eq!(orchestrator.job(job_id).await.movie_job_id, movie);
        let jobs = orchestrator.client().await.list_jobs(ListJobsRequest::default()).await;
        let jobs: Vec<_> = jobs.unwrap().into_inner().jobs;
        assert_eq!(jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(), [movie, job_id]);
    }
}

#[tokio::test]
async fn a_movie_is_cancelled_as_any_job_is_and_its_source_stays_finished() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let mut node = film_node(&orchestrator, "a").await;
    let mut spec = spec_of_movie(&orchestrator).await;
    spec.frames.truncate(1);
    let source = orchestrator.submit(spec).await;
    let png = orchestrator.upload(b"1").await;
    let (_, mut batch) = node.batch().await;
    batch.start(10);
    batch.finish(10, png);
    batch.end();
    let (request, _batch) = node.batch().await;
    let cancel = CancelJobRequest { job_id: request.job_id };
    let job = orchestrator.client().await.cancel_job(cancel).await.unwrap().into_inner().job;
    assert_eq!(job.unwrap().state(), JobState::Cancelled);
    assert_eq!(orchestrator.job(source).await.state(), JobState::Finished);
}
