//! The streams of clients: a job, the cluster, a log.

use bytes::Bytes;
use framecrew_proto::v1::{
    FrameRun, JobChanges, JobEnded, JobSnapshot, ReadLogRequest, ReadLogResponse,
    WatchClusterResponse, WatchJobRequest, WatchJobResponse,
    watch_job_response::Update as WireUpdate,
};
use futures::stream;
use prost::Message as _;
use tonic::Status;

use super::{
    PAGE_BYTES,
    jobs::parse_job_id,
    orchestrator::{Answers, OrchestratorService},
    status::unavailable,
};
use crate::{
    convert::{self, SpecDetail},
    domain::{FrameRange, FrameState},
    feed::Update,
    store::{JobRecord, JobStatus},
};

impl OrchestratorService {
    pub(super) async fn watch(
        &self,
        request: WatchJobRequest,
    ) -> Result<Answers<WatchJobResponse>, Status> {
        let job = parse_job_id(request.job_id)?;
        let watch = self.feed.watch(job, request.after_revision, &request.store_id).await?;
        let record = watch.record().clone();
        let this = self.clone();
        let sent = request.after_revision;
        Ok(Box::pin(stream::unfold(Some((watch, sent)), move |watch| {
            let (this, record) = (this.clone(), record.clone());
            async move {
                let (mut watch, sent) = watch?;
                let next = tokio::select! {
                    next = watch.next() => next,
                    () = this.shutdown.cancelled() => {
                        let what = format!("watch again from revision {sent}");
                        return Some((Err(shutting_down(&what)), None));
                    }
                };
                match next {
                    Ok(Some((revision, update))) => {
                        let update = this.update_to_wire(&record, update);
                        let store_id = this.feed.identity().store_id.to_string();
                        let message = WatchJobResponse { revision, store_id, update: Some(update) };
                        Some((Ok(message), Some((watch, revision))))
                    }
                    Ok(None) => None,
                    Err(error) => Some((Err(error.into()), None)),
                }
            }
        })))
    }

    fn update_to_wire(&self, record: &JobRecord, update: Update) -> WireUpdate {
        let status_to_wire = |status: JobStatus| {
            Some(self.job_to_wire(&JobRecord { status, ..record.clone() }, SpecDetail::Nothing))
        };
        match update {
            Update::Snapshot { snapshot, active } => {
                let troubled = snapshot.troubled.iter();
                let troubled = troubled.map(|frame| convert::frame_to_wire(frame, Bytes::new()));
                WireUpdate::Snapshot(JobSnapshot {
                    job: Some(self.job_to_wire(&snapshot.job, SpecDetail::WithoutProject)),
                    runs: snapshot.runs.iter().map(run_to_wire).collect(),
                    troubled: troubled.collect(),
                    active: active.iter().map(convert::active_to_wire).collect(),
                })
            }
            Update::Changes { status, frames, active } => WireUpdate::Changes(JobChanges {
                job: status_to_wire(status),
                frames: frames
                    .into_iter()
                    .map(|(frame, preview)| convert::frame_to_wire(&frame, preview))
                    .collect(),
                active: active.iter().map(convert::active_to_wire).collect(),
            }),
            Update::Ended(status) => WireUpdate::Ended(JobEnded { job: status_to_wire(status) }),
        }
    }

    pub(super) fn watch_all(&self) -> Answers<WatchClusterResponse> {
        let this = self.clone();
        let begun = (self.feed.watch_cluster(), Vec::new().into_iter(), Vec::new().into_iter());
        Box::pin(stream::unfold(Some(begun), move |watch| {
            let this = this.clone();
            async move {
                let (mut watch, mut jobs, mut nodes) = watch?;
                if jobs.len() + nodes.len() == 0 {
                    let changed = tokio::select! {
                        next = watch.next() => next,
                        () = this.shutdown.cancelled() => {
                            return Some((Err(shutting_down("watch again")), None));
                        }
                    };
                    (jobs, nodes) = (changed.0.into_iter(), changed.1.into_iter());
                }
                // More than a page comes in several messages.
                let mut message = WatchClusterResponse::default();
                let mut bytes = 0;
                while bytes <= PAGE_BYTES
                    && let Some(node) = nodes.next()
                {
                    let node = convert::node_to_wire(&node);
                    bytes += node.encoded_len();
                    message.nodes.push(node);
                }
                while bytes <= PAGE_BYTES
                    && let Some(job) = jobs.next()
                {
                    let job = this.job_to_wire(&job, SpecDetail::WithoutProject);
                    bytes += job.encoded_len();
                    message.jobs.push(job);
                }
                Some((Ok(message), Some((watch, jobs, nodes))))
            }
        }))
    }

    pub(super) async fn log(
        &self,
        request: ReadLogRequest,
    ) -> Result<Answers<ReadLogResponse>, Status> {
        let job = parse_job_id(request.job_id)?;
        let reader = self.feed.read_log(job, request.frame, request.follow).await?;
        let shutdown = self.shutdown.clone();
        Ok(Box::pin(stream::unfold(Some(reader), move |reader| {
            let shutdown = shutdown.clone();
            async move {
                let mut reader = reader?;
                let next = tokio::select! {
                    next = reader.next() => next,
                    () = shutdown.cancelled() => {
                        return Some((Err(shutting_down("read again")), None));
                    }
                };
                match next {
                    Ok(Some((lines, dropped))) => {
                        let lines = lines.iter().map(convert::line_to_wire).collect();
                        Some((Ok(ReadLogResponse { lines, dropped }), Some(reader)))
                    }
                    Ok(None) => None,
                    Err(error) => Some((Err(error.into()), None)),
                }
            }
        })))
    }
}

fn run_to_wire((range, state): &(FrameRange, FrameState)) -> FrameRun {
    FrameRun {
        frames: Some(convert::range_to_wire(range)),
        state: convert::frame_state_to_wire(*state).into(),
    }
}

fn shutting_down(what_to_do: &str) -> Status {
    unavailable(format!("the orchestrator is shutting down; {what_to_do} when it is back"))
}
