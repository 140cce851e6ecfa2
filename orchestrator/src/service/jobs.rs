//! Jobs are submitted, shown, watched and cancelled.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use framecrew_blobs::Digest;
use framecrew_proto::v1::{
    BlenderKind, FrameRun, Job, JobChanges, JobEnded, JobSnapshot, ListFramesRequest,
    ListFramesResponse, ListJobsRequest, ListJobsResponse, ReadLogRequest, ReadLogResponse,
    RetryFramesRequest, RetryFramesResponse, SubmitJobRequest, SubmitJobResponse,
    WatchClusterResponse, WatchJobRequest, WatchJobResponse,
    watch_job_response::Update as WireUpdate,
};
use futures::stream;
use prost::Message as _;
use tonic::Status;

use super::{
    blob_store::{LookupError, OutputLookup},
    faults::{Faults, exhausted, invalid, unavailable, unmet},
    orchestrator::{Answers, OrchestratorService},
};
use crate::{
    convert::{self, SpecDetail},
    domain::{
        Attempts, BlenderVersion, Frame, FrameRange, FrameState, JobId, JobSpec, NodeDescription,
        ProjectFile, Requirements,
    },
    driver::{NewJob, NoAnswer, RetryError, SubmitError},
    feed::{self, NodeView, Update, WatchError, shown},
    store::{JobRecord, JobStanding, Request, StoreError},
};

/// Items on a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;
/// Items on a page.
const PAGE_MAX: u32 = 1_000;
/// Bytes of jobs or frames on a page, about: half of what grpcurl takes by default.
const PAGE_BYTES: usize = 2 << 20;
/// Jobs read at a time: those of a page, or as many of the longest as take some tens of megabytes.
const JOBS_READ_MAX: usize = PAGE_DEFAULT as usize + 1;
/// Files named of those that are not uploaded; FindMissing tells all.
const MISSING_TOLD_MAX: usize = 20;
/// Bytes at the end of a .blend among which its last block begins.
const BLEND_END_BYTES: u64 = 4 << 10;

impl OrchestratorService {
    pub(super) async fn submit(
        &self,
        request: SubmitJobRequest,
    ) -> Result<SubmitJobResponse, Status> {
        let mut faults = Faults::default();
        convert::request_id(&request.request_id, &mut faults);
        let Some(spec) = request.spec else {
            faults.add("spec", "is missing");
            faults.check()?;
            return Err(Status::internal("a missing job passed as good"));
        };
        let fingerprint = Digest::of(&spec.encode_to_vec()).to_string();
        let spec = convert::job_spec(spec, &mut faults);
        faults.check()?;
        let spec = spec.ok_or_else(|| Status::internal("a job without faults did not parse"))?;
        // First: a job that exists is answered with, whatever has become of blobs and nodes since.
        if let Some((job, known)) = self.store.find_request(&request.request_id).await? {
            if known.fingerprint != fingerprint {
                return Err(SubmitError::RequestIdTaken(job).into());
            }
            let record = self.store.job_without_project(job).await?.ok_or_else(unknown_job)?;
            let job = Some(self.job_to_wire(&record, SpecDetail::WithoutProject));
            return Ok(SubmitJobResponse { job, existed: true });
        }
        self.check_uploaded(&spec).await?;
        let file_version = self.file_version(&spec).await?;
        let requirements = Requirements {
            file_version,
            blender: spec.settings.blender,
            tags: spec.tags.clone(),
            // So that there is a node for each frame, and for the movie of them.
            ffmpeg: spec.movie.is_some(),
            run_scripts: spec.settings.needs_scripts(),
        };
        self.check_renderable(&requirements)?;
        let new = NewJob {
            request: Request { request_id: request.request_id, fingerprint },
            spec: Arc::new(spec),
            file_version,
        };
        let _turn = self.turn()?;
        let (record, existed) = self.driver.submit(new).await?;
        let job = Some(self.job_to_wire(&record, SpecDetail::WithoutProject));
        Ok(SubmitJobResponse { job, existed })
    }

    /// Refuses a project with a file that is not stored in full. What is stored is safe until the job is
    /// accepted.
    async fn check_uploaded(&self, spec: &JobSpec) -> Result<(), Status> {
        let files = &spec.project.files;
        let blobs = files.iter().flat_map(|file| file.blobs().map(|(digest, _)| digest));
        let stored = self.blobs.sizes(blobs.collect()).await?;
        let mut stored = stored.into_iter();
        let mut faults = Faults::default();
        let mut missing = Vec::new();
        let mut missing_files = 0;
        for (n, file) in files.iter().enumerate() {
            let mut lacks = None;
            for ((digest, size_bytes), stored) in file.blobs().zip(stored.by_ref()) {
                match stored {
                    Some(stored) if stored == size_bytes => {}
                    // Cut short by a disk that lost its end: to be uploaded again.
                    Some(_) if !self.blobs.is_sound(digest).await? => {
                        lacks = lacks.or(Some(digest))
                    }
                    Some(stored) => {
                        let field = format!("spec.project.files[{n}].size_bytes");
                        let fault = format!("{} has {stored} bytes as uploaded", file.path);
                        faults.add(field, fault);
                    }
                    None => lacks = lacks.or(Some(digest)),
                }
            }
            let Some(digest) = lacks else { continue };
            missing_files += 1;
            if missing.len() < MISSING_TOLD_MAX {
                let what = format!("{} is not uploaded: send it with BlobStore.Upload", file.path);
                missing.push((digest.to_string(), what));
            }
        }
        faults.check()?;
        let message = match &*missing {
            [] => return Ok(()),
            [(_, only)] => only.clone(),
            _ => format!(
                "{missing_files} files of the project are not uploaded; BlobStore.FindMissing tells which"
            ),
        };
        Err(unmet(message, "BLOB", missing))
    }

    async fn file_version(&self, spec: &JobSpec) -> Result<BlenderVersion, Status> {
        const FIELD: &str = "spec.project.blend_path";
        let blend = spec
            .project
            .files
            .iter()
            .find(|file| file.path == spec.project.blend_path)
            .ok_or_else(|| invalid(FIELD, "is not one of the project's files"))?;
        let size_bytes = blend.size_bytes;
        let prefix = 0..size_bytes.min(framecrew_blend::VERSION_PREFIX_BYTES as u64);
        let prefix = self.read_file(blend, prefix).await?;
        let version = framecrew_blend::read_version(&*prefix)
            .map_err(|error| invalid(FIELD, format!("{}: {error}", blend.path)))?;
        // What is compressed tells its end only to those who read all of it.
        if prefix.starts_with(b"BLENDER") {
            let end = size_bytes.saturating_sub(BLEND_END_BYTES)..size_bytes;
            if !self.read_file(blend, end).await?.windows(4).any(|code| code == b"ENDB") {
                let message =
                    format!("{} is cut off: save or copy it again, and submit that", blend.path);
                return Err(invalid(FIELD, message));
            }
        }
        Ok(BlenderVersion { major: version.major, minor: version.minor, patch: None })
    }

    /// Bytes of a file that is uploaded, from those of its blobs that hold them.
    async fn read_file(&self, file: &ProjectFile, range: Range<u64>) -> Result<Vec<u8>, Status> {
        let mut bytes = Vec::new();
        let mut begin: u64 = 0;
        for (digest, size_bytes) in file.blobs() {
            let end = begin.saturating_add(size_bytes);
            let (from, to) = (range.start.max(begin), range.end.min(end));
            if from < to {
                let piece = self.blobs.read_range(digest, from - begin..to - begin).await?;
                bytes.extend_from_slice(&piece);
            }
            begin = end;
        }
        Ok(bytes)
    }

    /// Refuses what no node can render; where there is no node yet, the job waits for one.
    fn check_renderable(&self, requirements: &Requirements) -> Result<(), Status> {
        if let Some(wanted) = requirements.blender
            && !wanted.reads(requirements.file_version)
        {
            let message = format!(
                "is {wanted}, but the file was saved by Blender {}, whose files no version before 4.5 can read: ask for 4.5 or \
                 a newer one",
                requirements.file_version
            );
            return Err(invalid("spec.settings.blender", message));
        }
        let nodes: Vec<_> =
            self.feed.nodes().into_iter().filter(|node| node.state.is_live()).collect();
        // Who is still looking for its Blenders may have the right one; one that does not start now may start later. The
        // job waits as one does that was submitted before.
        let may_suit = |node: &NodeView| {
            node.description.meets(requirements) || node.description.may_come_to_meet(requirements)
        };
        if nodes.is_empty() || nodes.iter().any(may_suit) {
            return Ok(());
        }
        let descriptions = nodes.iter().map(|node| &node.description);
        let message = what_is_missing(requirements, descriptions);
        Err(unmet(message, "NODE", nodes.iter().map(what_it_has)))
    }

    pub(super) async fn job(&self, job_id: u64) -> Result<Job, Status> {
        let record = self.store.job(parse_job_id(job_id)?).await?.ok_or_else(unknown_job)?;
        Ok(self.job_to_wire(&record, SpecDetail::Whole))
    }

    fn job_to_wire(&self, record: &JobRecord, detail: SpecDetail) -> Job {
        let waiting_reason = if record.standing.state.is_final() {
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
            // One more than fits tells whether there are more.
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
            Frame { state: shown(frame.state, record.standing.state), ..frame }
        });
        let mut frames: Vec<Frame> = frames.collect();
        // Frames with many outputs, or long reasons, make a shorter page.
        let fit = feed::fitting(frames.iter().map(feed::bytes_of), PAGE_BYTES);
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
        let _turn = self.turn()?;
        self.driver.cancel(job).await?;
        self.job(job_id).await
    }

    pub(super) async fn retry(
        &self,
        request: RetryFramesRequest,
    ) -> Result<RetryFramesResponse, Status> {
        let job = parse_job_id(request.job_id)?;
        let record = self.store.job_without_project(job).await?.ok_or_else(unknown_job)?;
        let mut faults = Faults::default();
        let frames = convert::frames_to_retry(&request.frames, &record.spec.frames, &mut faults);
        faults.check()?;
        let _turn = self.turn()?;
        let (record, reopened) = self.driver.retry_frames(job, frames).await?;
        let job = Some(self.job_to_wire(&record, SpecDetail::WithoutProject));
        Ok(RetryFramesResponse { job, reopened })
    }

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
        let standing_to_wire = |standing: JobStanding| {
            Some(self.job_to_wire(&JobRecord { standing, ..record.clone() }, SpecDetail::Nothing))
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
            Update::Changes { standing, frames, active } => WireUpdate::Changes(JobChanges {
                job: standing_to_wire(standing),
                frames: frames
                    .into_iter()
                    .map(|(frame, preview)| convert::frame_to_wire(&frame, preview))
                    .collect(),
                active: active.iter().map(convert::active_to_wire).collect(),
            }),
            Update::Ended(standing) => {
                WireUpdate::Ended(JobEnded { job: standing_to_wire(standing) })
            }
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
                // What takes more than a page comes in several messages.
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

/// What no node has of what a job needs, and what to do about it.
fn what_is_missing<'a>(
    requirements: &Requirements,
    nodes: impl Iterator<Item = &'a NodeDescription>,
) -> String {
    let Requirements { file_version, blender, tags, ffmpeg, run_scripts } = requirements;
    let mut nodes: Vec<_> =
        nodes.filter(|node| tags.iter().all(|tag| node.tags.contains(tag))).collect();
    let (tagged, of_tags) = match &*tags.join(", ") {
        "" => (String::new(), String::new()),
        tags => (format!(" with the tags {tags}"), tags.to_owned()),
    };
    if nodes.is_empty() {
        return format!("no node has the tags {of_tags}; start one with --tag, or leave them out");
    }
    let only_blender = Requirements { blender: *blender, ..Requirements::of_file(*file_version) };
    let has = words_for_blenders(&nodes);
    nodes.retain(|node| node.meets(&only_blender));
    if nodes.is_empty() {
        return match blender {
            Some(wanted) => format!(
                "the job asks for Blender {wanted}, but the nodes{tagged} have {has}; ask for one of those, \
                 or start a node that has it or may fetch it (--provision)"
            ),
            None => format!(
                "the file was saved by Blender {file_version}; an older one may lose some of it, and the \
                 nodes{tagged} have {has}; start a node that has {file_version} or newer, or may fetch it \
                 (--provision), or ask for an older one anyway (--blender)"
            ),
        };
    }
    if *ffmpeg && !nodes.iter().any(|node| !node.ffmpeg.is_empty()) {
        return format!(
            "no node{tagged} has ffmpeg, which makes the movie; install it on one that can render the \
             file and start that again, or leave the movie out"
        );
    }
    if *run_scripts && !nodes.iter().any(|node| node.allows_scripts) {
        return format!(
            "no node{tagged} allows scripts: start one with --allow-scripts, or let the job do without --run-scripts \
             and --addon"
        );
    }
    format!(
        "each of these is on some node, but not all of it on one: {requirements}; start such a node"
    )
}

/// The versions of some nodes' Blenders, rising.
fn words_for_blenders(nodes: &[&NodeDescription]) -> String {
    let mut versions: Vec<_> = nodes
        .iter()
        .flat_map(|node| node.blenders.iter().filter(|blender| blender.is_usable()))
        .filter_map(|blender| blender.version)
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A node's name, and in words what matters to placing a job on it.
fn what_it_has(node: &NodeView) -> (String, String) {
    let NodeDescription { blenders, tags, ffmpeg, allows_scripts, .. } = &node.description;
    let blenders = blenders.iter().map(|blender| match blender.version {
        Some(version) if !blender.is_usable() => {
            format!("Blender {version} (does not start: {})", blender.unusable)
        }
        None if !blender.is_usable() => blender.unusable.clone(),
        Some(version) if blender.kind == BlenderKind::Provisionable as i32 => {
            format!("Blender {version} (fetched when needed)")
        }
        Some(version) => format!("Blender {version}"),
        None => "the synthetic renderer".to_owned(),
    });
    let mut has = blenders.collect::<Vec<_>>().join(", ");
    if !ffmpeg.is_empty() {
        has += ", ffmpeg";
    }
    if *allows_scripts {
        has += "; allows scripts";
    }
    if !tags.is_empty() {
        has += &format!("; tags {}", tags.join(", "));
    }
    (node.name.to_string(), format!("has {has}"))
}

/// A frame to which nothing has happened.
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

fn run_to_wire((range, state): &(FrameRange, FrameState)) -> FrameRun {
    FrameRun {
        frames: Some(convert::range_to_wire(range)),
        state: convert::frame_state_to_wire(*state).into(),
    }
}

fn parse_job_id(job_id: u64) -> Result<JobId, Status> {
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
    invalid("page_token", "is not one that an answer gave")
}

fn unknown_job() -> Status {
    Status::not_found("there is no such job; ListJobs tells which there are")
}

fn shutting_down(what_to_do: &str) -> Status {
    unavailable(format!("the orchestrator is shutting down; {what_to_do} when it is back"))
}

impl From<SubmitError> for Status {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::RequestIdTaken(_) => Self::already_exists(message),
            SubmitError::Store(StoreError::Full | StoreError::Low { .. })
            | SubmitError::StoreFailing => exhausted("STORE", &message),
            SubmitError::Store(error) => error.into(),
            SubmitError::NoAnswer(error) => error.into(),
        }
    }
}

impl From<RetryError> for Status {
    fn from(error: RetryError) -> Self {
        let message = error.to_string();
        match error {
            RetryError::NotFound => unknown_job(),
            RetryError::Cancelled => {
                unmet(message.clone(), "JOB", [("job_id".to_owned(), message)])
            }
            RetryError::Store(error) => error.into(),
            RetryError::NoAnswer(error) => error.into(),
        }
    }
}

impl From<NoAnswer> for Status {
    fn from(error: NoAnswer) -> Self {
        let message = error.to_string();
        match error {
            NoAnswer::ShuttingDown => unavailable(message),
            NoAnswer::Late => Self::deadline_exceeded(message),
            NoAnswer::Held => exhausted("STORE", &message),
        }
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        let message = error.to_string();
        match error {
            WatchError::UnknownJob => unknown_job(),
            WatchError::FutureRevision { .. } | WatchError::OtherStore => {
                unmet(message.clone(), "REVISION", [("after_revision".to_owned(), message)])
            }
            WatchError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        // May name the server's files, which are none of a client's business.
        tracing::error!(%error, "store");
        Self::internal("the orchestrator's store failed; its log says why")
    }
}
