//! A job is submitted: its request is checked against what is uploaded and against the nodes.

use std::{ops::Range, sync::Arc};

use framecrew_blobs::Digest;
use framecrew_proto::v1::{SubmitJobRequest, SubmitJobResponse};
use prost::Message as _;
use tonic::Status;

use super::{
    orchestrator::OrchestratorService,
    status::{unknown_job, unmet},
};
use crate::{
    convert::{
        self, SpecDetail,
        violations::{Violations, invalid},
    },
    domain::{BlenderVersion, JobSpec, NodeView, ProjectFile, Requirements},
    feed::reasons,
    mailbox::{NewJob, SubmitError},
    store::Request,
};

/// Missing files in an error. FindMissing returns all of them.
const MISSING_NAMED_MAX: usize = 20;
/// Bytes at the end of a .blend among which its last block begins.
const BLEND_END_BYTES: u64 = 4 << 10;

impl OrchestratorService {
    pub(super) async fn submit(
        &self,
        request: SubmitJobRequest,
    ) -> Result<SubmitJobResponse, Status> {
        let mut violations = Violations::default();
        convert::request_id(&request.request_id, &mut violations);
        let Some(spec) = request.spec else {
            violations.add("spec", "is missing");
            violations.check()?;
            return Err(Status::internal("a missing job passed as good"));
        };
        let fingerprint = Digest::of(&spec.encode_to_vec()).to_string();
        let spec = convert::job_spec(spec, &mut violations);
        violations.check()?;
        let spec =
            spec.ok_or_else(|| Status::internal("a job without violations did not parse"))?;
        // Before the checks: an existing job is the answer, even if its blobs or nodes have changed since.
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
        // One node must suit the frames and the movie.
        self.check_renderable(&spec.requirements_with_followups(file_version))?;
        let new = NewJob {
            request: Request { request_id: request.request_id, fingerprint },
            spec: Arc::new(spec),
            file_version,
        };
        let _permit = self.admit_call()?;
        let (record, existed) = self.driver.submit(new).await?;
        let job = Some(self.job_to_wire(&record, SpecDetail::WithoutProject));
        Ok(SubmitJobResponse { job, existed })
    }

    /// Refuses a project with a file that is not stored in full. Stored blobs are safe until the job is accepted.
    async fn check_uploaded(&self, spec: &JobSpec) -> Result<(), Status> {
        let files = &spec.project.files;
        let blobs = files.iter().flat_map(|file| file.blobs().map(|(digest, _)| digest));
        let stored = self.blobs.sizes(blobs.collect()).await?;
        let mut stored = stored.into_iter();
        let mut violations = Violations::default();
        let mut missing = Vec::new();
        let mut missing_files = 0;
        for (n, file) in files.iter().enumerate() {
            let mut lacks = None;
            for ((digest, size_bytes), stored) in file.blobs().zip(stored.by_ref()) {
                match stored {
                    Some(stored) if stored == size_bytes => {}
                    // The disk has lost the end of the blob: it must be uploaded again.
                    Some(_) if !self.blobs.is_sound(digest).await? => {
                        lacks = lacks.or(Some(digest))
                    }
                    Some(stored) => {
                        let field = format!("spec.project.files[{n}].size_bytes");
                        let fault = format!("{} has {stored} bytes as uploaded", file.path);
                        violations.add(field, fault);
                    }
                    None => lacks = lacks.or(Some(digest)),
                }
            }
            let Some(digest) = lacks else { continue };
            missing_files += 1;
            if missing.len() < MISSING_NAMED_MAX {
                let what = format!("{} is not uploaded: send it with BlobStore.Upload", file.path);
                missing.push((digest.to_string(), what));
            }
        }
        violations.check()?;
        let message = match &*missing {
            [] => return Ok(()),
            [(_, only)] => only.clone(),
            _ => format!(
                "{missing_files} files of the project are not uploaded; BlobStore.FindMissing lists them"
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
        // The end of a compressed file shows only when all of it is read.
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

    /// Bytes of an uploaded file, read from its blobs.
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

    /// Refuses a job that no registered node can render. With no node registered, the job waits for one.
    fn check_renderable(&self, requirements: &Requirements) -> Result<(), Status> {
        if let Some(wanted) = requirements.blender
            && !wanted.reads(requirements.file_version)
        {
            let message = format!(
                "is {wanted}, but the file was saved by Blender {}, which no version before 4.5 can read: ask for 4.5 \
                 or newer",
                requirements.file_version
            );
            return Err(invalid("spec.settings.blender", message));
        }
        let nodes: Vec<_> =
            self.feed.nodes().into_iter().filter(|node| node.state.is_live()).collect();
        // A node that is still looking for its Blenders may have the right one, and a Blender that does not start now
        // may start later. Then the job waits.
        let may_suit = |node: &NodeView| {
            node.description.meets(requirements) || node.description.may_come_to_meet(requirements)
        };
        if nodes.is_empty() || nodes.iter().any(may_suit) {
            return Ok(());
        }
        let descriptions = nodes.iter().map(|node| &node.description);
        let message = reasons::what_is_missing(requirements, descriptions);
        Err(unmet(message, "NODE", nodes.iter().map(reasons::what_it_has)))
    }
}
