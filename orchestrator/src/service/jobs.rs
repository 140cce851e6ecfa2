//! Jobs and their frames are listed, shown, cancelled and retried.

use bytes::Bytes;
use framecrew_blobs::Digest;
use framecrew_proto::{
    limits::PAGE_MAX,
    v1::{
        Job, ListFramesRequest, ListFramesResponse, ListJobsRequest, ListJobsResponse,
        RetryFramesRequest, RetryFramesResponse,
    },
};
use prost::Message as _;
use tonic::Status;

use super::{
    PAGE_BYTES,
    lookup::{LookupError, OutputLookup},
    orchestrator::OrchestratorService,
    status::unknown_job,
};
use crate::{
    convert::{
        self, SpecDetail,
        violations::{Violations, invalid},
    },
    domain::{Attempts, Frame, FrameState, JobId},
    feed::{
        shown,
        sizes::{bytes_of, fitting},
    },
    store::{JobRecord, StoreError},
};

/// Items on a page by default.
const PAGE_DEFAULT: u32 = 100;
/// Jobs read at a time: those of a default page. As many of the longest take some tens of megabytes.
const JOBS_READ_MAX: usize = PAGE_DEFAULT as usize + 1;

impl OrchestratorService {
    pub(super) async fn job(&self, job_id: u64) -> Result<Job, Status> {
        let record = self.store.job(parse_job_id(job_id)?).await?.ok_or_else(unknown_job)?;
        Ok(self.job_to_wire(&record, SpecDetail::Whole))
    }

    pub(super) fn job_to_wire(&self, record: &JobRecord, detail: SpecDetail) -> Job {
        let waiting_reason = if record.status.state.is_final() {
            String::new()
        } else {
            self.feed.waiting_reason(record.job, &record.requirements())
        };
        convert::job_to_wire(record, detail, waiting_reason)
    }

    pub(super) async fn page_of_jobs(
        &self,
        request: ListJobsRequest,
    ) -> Result<ListJobsResponse, Status> {
        let size = page_size(request.page_size)? as usize;
        let mut before = match &*request.page_token {
            "" => JobId(u64::MAX),
            token => JobId(token.parse().map_err(|_| bad_token())?),
        };
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        let is_more = 'page: loop {
            // One more than fits shows whether there are more.
            let limit = JOBS_READ_MAX.min(size + 1 - jobs.len());
            let records = self.store.jobs_before(before, limit as u32).await?;
            for record in &records {
                // Jobs of many ranges, or with many warnings, make a shorter page.
                if jobs.len() == size || bytes > PAGE_BYTES {
                    break 'page true;
                }
                let job = self.job_to_wire(record, SpecDetail::WithoutProject);
                bytes += job.encoded_len();
                jobs.push(job);
            }
            match records.last() {
                Some(last) => before = last.job,
                None => break false,
            }
        };
        let next = jobs.last().filter(|_| is_more).map(|job| job.job_id.to_string());
        Ok(ListJobsResponse { jobs, next_page_token: next.unwrap_or_default() })
    }

    pub(super) async fn page_of_frames(
        &self,
        request: ListFramesRequest,
    ) -> Result<ListFramesResponse, Status> {
        let job = parse_job_id(request.job_id)?;
        let size = page_size(request.page_size)?;
        let after = match &*request.page_token {
            "" => i64::from(i32::MIN) - 1,
            token => i64::from(token.parse::<i32>().map_err(|_| bad_token())?),
        };
        let record = self.store.job_without_project(job).await?.ok_or_else(unknown_job)?;
        let mut numbers = record.spec.frames.above(after, size as usize + 1);
        let is_more = numbers.len() > size as usize;
        numbers.truncate(size as usize);
        let stored = self.store.frames_after(job, after, size).await?;
        let mut stored = stored.into_iter().peekable();
        let frames = numbers.iter().map(|&number| {
            let known = stored.next_if(|frame| frame.frame == number);
            let frame = known.unwrap_or_else(|| untouched(number));
            Frame { state: shown(frame.state, record.status.state), ..frame }
        });
        let mut frames: Vec<Frame> = frames.collect();
        // Frames with many outputs, or long reasons, make a shorter page.
        let fit = fitting(frames.iter().map(bytes_of), PAGE_BYTES);
        let is_more = is_more || frames.len() > fit;
        frames.truncate(fit);
        let next = frames.last().filter(|_| is_more).map(|frame| frame.frame.to_string());
        Ok(ListFramesResponse {
            frames: frames.iter().map(|f| convert::frame_to_wire(f, Bytes::new())).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    pub(super) async fn cancel(&self, job_id: u64) -> Result<Job, Status> {
        let job = parse_job_id(job_id)?;
        let _permit = self.admit_call()?;
        self.driver.cancel(job).await?;
        self.job(job_id).await
    }

    pub(super) async fn retry(
        &self,
        request: RetryFramesRequest,
    ) -> Result<RetryFramesResponse, Status> {
        let job = parse_job_id(request.job_id)?;
        let record = self.store.job_without_project(job).await?.ok_or_else(unknown_job)?;
        let mut violations = Violations::default();
        let frames =
            convert::frames_to_retry(&request.frames, &record.spec.frames, &mut violations);
        violations.check()?;
        let _permit = self.admit_call()?;
        let (record, reopened) = self.driver.retry_frames(job, frames).await?;
        let job = Some(self.job_to_wire(&record, SpecDetail::WithoutProject));
        Ok(RetryFramesResponse { job, reopened })
    }
}

#[tonic::async_trait]
impl OutputLookup for OrchestratorService {
    async fn find_output(
        &self,
        job_id: u64,
        frame: i32,
        name: &str,
    ) -> Result<Digest, LookupError> {
        let failed = |error: StoreError| LookupError::Failed(error.to_string());
        let job = JobId(job_id);
        let record = self.store.job_without_project(job).await.map_err(failed)?;
        let record = record.ok_or(LookupError::UnknownJob)?;
        if !record.spec.frames.contains(frame) {
            return Err(LookupError::UnknownFrame);
        }
        let frames = self.store.frames_after(job, i64::from(frame) - 1, 1).await.map_err(failed)?;
        let rendered = frames
            .into_iter()
            .find(|stored| stored.frame == frame)
            .and_then(|stored| stored.rendered)
            .ok_or(LookupError::NotFinished)?;
        let mut outputs = rendered.outputs.iter();
        outputs
            .find(|output| name.is_empty() || output.name == name)
            .map(|output| output.digest)
            .ok_or(LookupError::UnknownOutput)
    }
}

/// A frame without history.
fn untouched(frame: i32) -> Frame {
    Frame {
        frame,
        state: FrameState::Open,
        revision: 0,
        attempts: Attempts::default(),
        rendered: None,
        failure: None,
        node: None,
    }
}

pub(super) fn parse_job_id(job_id: u64) -> Result<JobId, Status> {
    match i64::try_from(job_id) {
        Ok(1..) => Ok(JobId(job_id)),
        Ok(_) => Err(invalid("job_id", "must be 1 or more")),
        Err(_) => Err(invalid("job_id", format!("must be {} at most", i64::MAX))),
    }
}

fn page_size(asked: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(asked),
        _ => Err(invalid("page_size", format!("must be 1 to {PAGE_MAX}, is {asked}"))),
    }
}

fn bad_token() -> Status {
    invalid("page_token", "is not from an earlier answer")
}
