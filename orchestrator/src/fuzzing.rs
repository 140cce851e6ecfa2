//! The fuzz targets.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use framecrew_blobs::{BlobClient, Digest};
use framecrew_proto::v1::{
    self as wire, blob_store_client::BlobStoreClient, orchestrator_client::OrchestratorClient,
};
use prost::Message;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

use crate::{
    Config, convert,
    convert::violations::Violations,
    domain::{FrameRange, FrameSet, Work},
};

/// The smallest file that passes as a .blend.
const BLEND: &[u8] = b"BLENDER-v405 and nothing to draw ENDB";
/// How long an answer may take; far longer than any does.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Frames of the job in every call.
const EVERY_THIRD: FrameRange = FrameRange { first: 1, last: 40, step: 3 };

/// Parses a request or event, chosen by the first byte, and checks the result.
pub fn orchestrator_requests(data: &[u8]) {
    let Some((which, message)) = data.split_first() else { return };
    let mut violations = Violations::default();
    match which % 5 {
        0 => {
            let Ok(request) = wire::SubmitJobRequest::decode(message) else { return };
            convert::request_id(&request.request_id, &mut violations);
            let spec = convert::job_spec(request.spec.unwrap_or_default(), &mut violations);
            if violations.check().is_err() {
                return;
            }
            let spec = spec.expect("a spec without violations");
            assert!((1..=1_000_000).contains(&spec.frames.count()));
            let again = wire::JobSpec {
                name: spec.name.clone(),
                project: Some(convert::project_to_wire(&spec.project)),
                frames: spec.frames.ranges().iter().map(convert::range_to_wire).collect(),
                settings: Some(convert::settings_to_wire(&spec.settings)),
                priority: spec.priority,
                tags: spec.tags.clone(),
                strict: spec.strict,
                movie: match spec.work {
                    Work::Frames { movie } => {
                        movie.map(|format| wire::Movie { format: format.into() })
                    }
                    Work::Movie { .. } => None,
                },
                movie_of_job_id: 0,
                limits: Some(convert::limits_to_wire(spec.limits)),
            };
            let mut violations = Violations::default();
            let again = convert::job_spec(again, &mut violations);
            assert!(violations.check().is_ok() && again.as_ref() == Some(&spec));
        }
        1 => {
            let Ok(event) = wire::BatchEvent::decode(message) else { return };
            let _ = convert::batch_report(event);
        }
        2 => {
            let Ok(request) = wire::RegisterNodeRequest::decode(message) else { return };
            convert::node_name(&request.name, &mut violations);
            let description = convert::node_description(request.description, &mut violations);
            assert!(violations.check().is_err() || description.is_some());
        }
        3 => {
            let Ok(request) = wire::RetryFramesRequest::decode(message) else { return };
            let ranges = vec![FrameRange { first: -9, last: -1, step: 1 }, EVERY_THIRD];
            let of_job = FrameSet::new(ranges).expect("frames");
            let frames = convert::frames_to_retry(&request.frames, &of_job, &mut violations);
            if violations.check().is_err() {
                return;
            }
            assert_eq!(frames.is_none(), request.frames.is_empty(), "none named: all are meant");
            assert!(frames.is_none_or(|frames| frames.iter().all(|it| of_job.contains(it))));
        }
        _ => {
            let Ok(request) = wire::AdoptFramesRequest::decode(message) else { return };
            let offered = request.frames.len();
            let orphans = convert::orphaned_frames(request.frames, &mut violations);
            assert!(violations.check().is_err() || orphans.len() == offered, "each has its answer");
            for (job, _, rendered) in orphans {
                assert!(!rendered.outputs.is_empty() && rendered.render_seconds >= 0.0, "{job}");
            }
        }
    }
}

/// Makes a call, chosen by the first byte, to an orchestrator that has a job: page tokens, revisions, offsets.
pub fn orchestrator_calls(data: &[u8]) {
    let Some((which, message)) = data.split_first() else { return };
    static CALLED: OnceLock<Called> = OnceLock::new();
    let called = CALLED.get_or_init(Called::start);
    let answered = called.runtime.block_on(async {
        tokio::time::timeout(ANSWER_WITHIN, called.call(*which, message)).await
    });
    let code = answered.expect("an answer").map_or_else(|status| status.code(), |()| Code::Ok);
    assert!(!matches!(code, Code::Unknown | Code::Internal | Code::DataLoss), "{code:?}");
}

/// An orchestrator in this process, with clients.
struct Called {
    runtime: Runtime,
    orchestrator: OrchestratorClient<Channel>,
    blobs: BlobStoreClient<Channel>,
    store_id: String,
}

impl Called {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (orchestrator, blobs, store_id) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            tokio::spawn(crate::serve(listener, Config::new(data()), std::future::pending()));
            let channel = Channel::from_shared(url).expect("a URL").connect().await;
            let channel = channel.expect("a connection");
            let mut orchestrator = OrchestratorClient::new(channel.clone());
            let digest = Digest::of(BLEND);
            let upload = BlobClient::new(channel.clone()).upload_bytes(BLEND.into(), digest).await;
            upload.expect("an upload");
            orchestrator.submit_job(job("fuzz")).await.expect("a job");
            let joined = orchestrator.register_node(node()).await.expect("a node");
            (orchestrator, BlobStoreClient::new(channel), joined.into_inner().store_id)
        });
        Self { runtime, orchestrator, blobs, store_id }
    }

    /// Makes a call if `message` is a valid request.
    async fn call(&self, which: u8, message: &[u8]) -> Result<(), Status> {
        let (mut orchestrator, mut blobs) = (self.orchestrator.clone(), self.blobs.clone());
        match which % 10 {
            0 => answered(orchestrator.get_job(of(message)?).await),
            1 => answered(orchestrator.list_jobs(of(message)?).await),
            2 => answered(orchestrator.list_frames(of(message)?).await),
            3 => first(orchestrator.watch_job(of(message)?).await).await,
            4 => answered(orchestrator.read_log(of(message)?).await),
            5 => answered(orchestrator.heartbeat(of(message)?).await),
            6 => answered(orchestrator.retry_frames(of(message)?).await),
            7 => {
                let mut offer = of::<wire::AdoptFramesRequest>(message)?;
                // Neither a store's name nor a lease can be guessed.
                offer.get_mut().store_id.clone_from(&self.store_id);
                orchestrator.register_node(node()).await?;
                answered(orchestrator.adopt_frames(offer).await)
            }
            8 => answered(blobs.find_missing(of(message)?).await),
            _ => first(blobs.download(of(message)?).await).await,
        }
    }
}

/// Where it keeps what it remembers.
fn data() -> PathBuf {
    std::env::temp_dir().join(format!("framecrew-fuzz-{}", std::process::id()))
}

fn of<M: Message + Default>(message: &[u8]) -> Result<Request<M>, Status> {
    M::decode(message)
        .map(Request::new)
        .map_err(|_| Status::cancelled("not a message of this call"))
}

fn answered<T>(answer: Result<Response<T>, Status>) -> Result<(), Status> {
    answer.map(drop)
}

/// The first message too.
async fn first<T>(stream: Result<Response<Streaming<T>>, Status>) -> Result<(), Status> {
    let mut stream = stream?.into_inner();
    // A watch that resumes at the latest revision has nothing to tell.
    let soon = Duration::from_millis(5);
    tokio::time::timeout(soon, stream.message()).await.map_or(Ok(()), |message| message.map(drop))
}

fn job(request_id: &str) -> wire::SubmitJobRequest {
    let file = wire::ProjectFile {
        path: "shot.blend".into(),
        digest: Digest::of(BLEND).to_string(),
        size_bytes: BLEND.len() as u64,
        ..wire::ProjectFile::default()
    };
    let spec = wire::JobSpec {
        name: "fuzz".into(),
        project: Some(wire::Project { blend_path: "shot.blend".into(), files: vec![file] }),
        frames: vec![
            convert::range_to_wire(&EVERY_THIRD),
            wire::FrameRange { first: -9, last: -1, step: 1 },
        ],
        limits: Some(wire::TimeLimits { frame_seconds: Some(7), ..wire::TimeLimits::default() }),
        ..wire::JobSpec::default()
    };
    wire::SubmitJobRequest { request_id: request_id.into(), spec: Some(spec) }
}

/// A node whose Blender is too old for the job: it is never sent anything.
fn node() -> wire::RegisterNodeRequest {
    let blender = wire::Blender { version: "3.4.1".into(), ..wire::Blender::default() };
    let description =
        wire::NodeDescription { slots: 2, blenders: vec![blender], ..Default::default() };
    wire::RegisterNodeRequest {
        name: "a".into(),
        incarnation: 1,
        address: "http://127.0.0.1:1".into(),
        description: Some(description),
        ..wire::RegisterNodeRequest::default()
    }
}

#[cfg(test)]
#[path = "../../proto/fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(which: u8, message: impl Message) -> Vec<u8> {
        [&[which][..], &message.encode_to_vec()].concat()
    }

    /// A finished frame of the job, whose output is in the store.
    fn orphan(frame: i32) -> wire::OrphanedFrame {
        let output = wire::Output {
            name: format!("{frame:04}.png"),
            digest: Digest::of(BLEND).to_string(),
            size_bytes: BLEND.len() as u64,
            width: 1,
            height: 1,
            channels: 4,
        };
        let finished = wire::SliceFinished {
            slice: Some(wire::Slice { frame, index: 0 }),
            outputs: vec![output],
            render_seconds: 1.5,
            ..wire::SliceFinished::default()
        };
        wire::OrphanedFrame { job_id: 1, finished: Some(finished) }
    }

    #[test]
    fn the_seeds_of_orchestrator_requests_hold() {
        let mut faulty = job("movie-of-7");
        if let Some(spec) = &mut faulty.spec {
            spec.frames.push(wire::FrameRange { first: 3, last: i32::MAX, step: 0 });
            spec.movie = Some(wire::Movie { format: 9 });
            spec.priority = 101;
        }
        let failure = wire::Failure { message: "no memory".into(), ..wire::Failure::default() };
        let slice = Some(wire::Slice { frame: 7, index: 0 });
        let failed = wire::SliceFailed { slice, failure: Some(failure) };
        let event =
            wire::BatchEvent { sequence: 3, event: Some(wire::batch_event::Event::Failed(failed)) };
        let retry = |first, last| {
            let frames = vec![wire::FrameRange { first, last, step: 3 }];
            seed(3, wire::RetryFramesRequest { job_id: 1, frames })
        };
        let offer = |frames| {
            seed(4, wire::AdoptFramesRequest { name: "a".into(), frames, ..Default::default() })
        };
        let seeds = [
            ("job", seed(0, job("fuzz"))),
            ("faulty-job", seed(0, faulty)),
            ("event", seed(1, event)),
            ("node", seed(2, node())),
            ("retry", retry(1, 7)),
            ("retry-none-of-it", retry(i32::MIN, i32::MAX)),
            ("adopt", offer(vec![orphan(4)])),
            ("adopt-nothing", offer(vec![wire::OrphanedFrame { job_id: 0, finished: None }])),
        ];
        super::seeds::check("orchestrator_requests", &seeds, orchestrator_requests);
    }

    #[test]
    fn the_seeds_of_orchestrator_calls_hold() {
        let page = |token: &str| wire::ListFramesRequest {
            job_id: 1,
            page_size: 3,
            page_token: token.into(),
        };
        let watch = |after_revision, store_id: &str| wire::WatchJobRequest {
            job_id: 1,
            after_revision,
            store_id: store_id.into(),
        };
        let frames = vec![wire::FrameRange { first: 1, last: 4, step: 3 }];
        let heartbeat = wire::HeartbeatRequest { name: "a".into(), ..Default::default() };
        let adopt = |frames| {
            let (name, incarnation) = ("a".into(), 1);
            seed(7, wire::AdoptFramesRequest { name, incarnation, frames, ..Default::default() })
        };
        let digest = Digest::of(BLEND).to_string();
        let part = wire::DownloadRequest {
            source: Some(wire::download_request::Source::Digest(digest.clone())),
            offset: 7,
        };
        let seeds = [
            ("job", seed(0, wire::GetJobRequest { job_id: 1 })),
            ("jobs", seed(1, wire::ListJobsRequest { page_size: 1, page_token: "2".into() })),
            ("frames", seed(2, page("-3"))),
            ("no-token", seed(2, page("99999999999"))),
            ("watch", seed(3, watch(0, ""))),
            ("resume", seed(3, watch(1, "another"))),
            ("log", seed(4, wire::ReadLogRequest { job_id: 1, frame: Some(1), follow: true })),
            ("heartbeat", seed(5, heartbeat)),
            ("retry", seed(6, wire::RetryFramesRequest { job_id: 1, frames })),
            ("adopt", adopt(vec![wire::OrphanedFrame { job_id: 1, finished: None }])),
            ("adopted", adopt(vec![orphan(4), orphan(4), orphan(5)])),
            ("missing", seed(8, wire::FindMissingRequest { digests: vec![digest, "x".into()] })),
            ("download", seed(9, part)),
        ];
        super::seeds::check("orchestrator_calls", &seeds, orchestrator_calls);
        // Nothing else asks it any more.
        let _ = std::fs::remove_dir_all(data());
    }
}
